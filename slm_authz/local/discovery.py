"""What a model server serves, asked from itself: GET /v1/models → models, or plain words. Nothing of its answer is believed unseen."""

from __future__ import annotations

import json
import re
import socket
import ssl
import urllib.request
from typing import Any, Final
from urllib.error import HTTPError, URLError

from slm_authz.errors import DependencyError, UsageError
from slm_authz.local.stack import DIRECT
from slm_authz.local.wiring import Upstream

_NAME: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,256}")
"""What may travel in a header: visible ASCII without comma."""
_MAX_ANSWER: Final = 1 << 20
_MAX_MODELS: Final = 64
_FIX: Final = "Start it, correct --upstream, or describe its models in a file and give that with -c FILE."


def models_of(upstream: Upstream, key: str | None) -> dict[str, dict[str, Any]]:
    """The `models` section for a server of which nothing else is known: cautious bounds, no price. DependencyError, UsageError."""
    request = urllib.request.Request(f"{upstream.url}/v1/models")  # noqa: S310 - http or https: parse_upstream lets nothing else pass
    if key is not None:
        request.add_unredirected_header("authorization", f"Bearer {key}")
    try:
        with DIRECT.open(request, timeout=10) as answer:
            listed = json.loads(answer.read(_MAX_ANSWER))["data"]
            models = {model["id"]: _model(model) for model in listed[:_MAX_MODELS] if _usable(model["id"])}
    except HTTPError as error:
        error.close()
        more = "" if key is not None else " Name its key with --upstream-key-env." if error.code in (401, 403) else ""
        raise DependencyError(f"The model server answers {error.code} to GET {upstream.url}/v1/models.{more}", _FIX) from error
    except (OSError, URLError) as error:
        raise DependencyError(f"The model server at {upstream.url} cannot be reached: {_plain(error)}.", _FIX) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DependencyError(f"The answer to GET {upstream.url}/v1/models is not a list of models.", _FIX) from error
    if not models:
        raise UsageError("The model server lists no models that could be named here.", "Describe them in a file and give it with -c FILE.")
    return models


def _usable(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _model(listed: dict[str, Any]) -> dict[str, Any]:
    """Cautious bounds; the context where the server tells it, as vLLM and SGLang do (`max_model_len`)."""
    context = listed.get("max_model_len")
    if type(context) is not int or context < 16:
        return {"default_output_tokens": 1024, "max_output_tokens": 4096}
    return {"context": context, "default_output_tokens": min(1024, context), "max_output_tokens": min(4096, context)}


def _plain(error: OSError) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({reason.verify_message})"
    return (reason.strerror or str(reason)) if isinstance(reason, OSError) else str(reason)


def reachable(upstream: Upstream) -> str | None:
    """Why no connection can be made; None: one can."""
    try:
        with socket.create_connection((upstream.host, upstream.port), timeout=3):
            return None
    except OSError as error:
        return _plain(error)

"""`GET /v1/models` as we answer it ourselves: only the models that the caller may use."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


def models_body(names: Iterable[str]) -> bytes:
    """OpenAI's list of models. `created` is not known here: 0."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "slm-authz"} for name in names]
    return msgspec.json.encode({"object": "list", "data": data})

"""A refusal in the caller's own API dialect, as the SDKs parse it."""

from __future__ import annotations

from typing import Final

import msgspec

from slm_authz.reason import Denial

_OPENAI_TYPE: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPE: Final = {**_OPENAI_TYPE, 402: "billing_error", 404: "not_found_error", 413: "request_too_large"}


def refusal_body(dialect: str, denial: Denial) -> bytes:
    """The JSON body of a refusal: OpenAI's shape, but for Anthropic's and Ollama's own paths."""
    status = denial.http_status
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPE.get(status, "invalid_request_error" if status < 500 else "api_error")
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": denial.message}})
    if dialect == "ollama":
        return msgspec.json.encode({"error": denial.message})
    kind = _OPENAI_TYPE.get(status, "invalid_request_error" if status < 500 else "api_error")
    error = {"message": denial.message, "type": kind, "param": denial.param, "code": denial.public_code}
    return msgspec.json.encode({"error": error})

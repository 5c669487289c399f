"""Whether the body that we see is the body that the upstream will read. Pure; called once per call with a model.

A client cannot forge the answer: Envoy overwrites its own header, and every way in which the two could differ is refused.
"""

from __future__ import annotations

from typing import Final

from slm_authz.reason import Denial, Reason
from slm_authz.request.context import RequestContext

_PARTIAL: Final = "x-envoy-auth-partial-body"
_MAX_DIGITS: Final = 15

_NOT_JSON: Final = Denial(Reason.AMBIGUOUS_REQUEST, "Send the body as JSON, with the header Content-Type: application/json.")
_NOT_UTF8: Final = Denial(Reason.AMBIGUOUS_REQUEST, "Send the JSON body in UTF-8.")
_ENCODED: Final = Denial(Reason.AMBIGUOUS_REQUEST, "The body is encoded and cannot be inspected: send it without Content-Encoding.")


def is_whole(request: RequestContext, max_body: int) -> bool:
    """Whether the gateway sent all of the body.

    Not whole: Envoy says so, another length than Content-Length says (repeated or garbage included), or as many bytes as the configured
    maximum without a Content-Length equal to that: a chunked body that was cut exactly there says `false` and has no Content-Length.
    """
    headers = request.headers
    if headers.get(_PARTIAL, "false") != "false":
        return False
    size = len(request.body)
    length = headers.get("content-length")
    if length is None:
        return size < max_body
    # Repeated lengths arrive joined by a comma, which is no digit.
    return length.isascii() and length.isdigit() and len(length) <= _MAX_DIGITS and int(length) == size and size <= max_body


def check_media(request: RequestContext) -> Denial | None:
    """Refuse a body that another reader might take for something else than plain JSON: JSON can also be read as a form (`{"a":"&b=c"}`).

    Content-Type is application/json, with no parameter but charset=utf-8 (RFC 8259 defines none), or is missing altogether: then the
    receiver judges by the bytes (RFC 9110, 8.3), and those are JSON or are refused. `application/…+json` is another content type.
    """
    headers = request.headers
    encoding = headers.get("content-encoding")
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        return _ENCODED
    kind = headers.get("content-type")
    if kind is None or kind == "application/json":
        return None
    media, *parameters = (part.strip().lower() for part in kind.split(";"))
    if media != "application/json":
        return _NOT_JSON
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset":
            if value.strip('"') not in ("utf-8", "utf8"):
                return _NOT_UTF8
        elif parameter:
            return _NOT_JSON
    return None

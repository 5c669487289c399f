"""Whether the body that we see is the body that the upstream will read. Pure; called once per call with a model."""

from __future__ import annotations

from typing import Final

from slm_authz.reason import Denial, Reason
from slm_authz.request.context import RequestContext

_PARTIAL: Final = "x-envoy-auth-partial-body"


def is_whole(request: RequestContext, max_body: int) -> bool:
    """Whether the gateway sent all of the body.

    Not whole: Envoy says so, fewer bytes than Content-Length, or as many as the configured maximum without a Content-Length equal to
    that: a chunked body that was cut exactly there says `false` and has no Content-Length.
    """
    headers = request.headers
    if headers.get(_PARTIAL, "false") != "false":
        return False
    size = len(request.body)
    length = headers.get("content-length")
    if length is None:
        return size < max_body
    return length.isascii() and length.isdigit() and len(length) < 16 and int(length) == size and size <= max_body


def check_media(request: RequestContext) -> Denial | None:
    """Refuse a body that another reader might take for something else than plain JSON.

    Content-Type must be application/json (its parameters do not matter, except a charset that is not UTF-8): a server that parses by
    content type would otherwise read a different body than we do.
    """
    headers = request.headers
    encoding = headers.get("content-encoding")
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        return Denial(Reason.AMBIGUOUS_REQUEST, "The body is encoded and cannot be inspected: send it without Content-Encoding.")
    kind = headers.get("content-type")
    if kind == "application/json":
        return None
    if kind is None:
        return Denial(Reason.AMBIGUOUS_REQUEST, "Send the body as JSON, with the header Content-Type: application/json.")
    media, *parameters = (part.strip().lower() for part in kind.split(";"))
    if media != "application/json" or "," in kind:
        return Denial(Reason.AMBIGUOUS_REQUEST, "Send the body as JSON, with the header Content-Type: application/json.")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8"):
            return Denial(Reason.AMBIGUOUS_REQUEST, "Send the JSON body in UTF-8.")
    return None

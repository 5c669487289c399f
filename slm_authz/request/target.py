"""The path and the host, judged as the upstream will see them. Enters: the raw request target. Leaves: `Target` or a refusal.

Decode once, merge slashes, resolve dot segments. What could still mean something else to the next server (an encoded slash, percent,
backslash, question mark or NUL, path parameters, a way above the root) is refused, never resolved by guessing: our reading is never
looser than the upstream's.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from slm_authz.reason import Denial, Reason
from slm_authz.request.address import parse

_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_AMBIGUOUS: Final = frozenset("/\\%;?#\x00")
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")


class Target(msgspec.Struct, frozen=True, gc=False):
    """A path that every server reads alike, decoded, and the raw query without its question mark."""

    path: str
    query: str


def _malformed(why: str) -> Denial:
    return Denial(Reason.MALFORMED_REQUEST, f"The request path {why}.")


def _ambiguous(why: str) -> Denial:
    return Denial(Reason.AMBIGUOUS_REQUEST, f"The request path {why}, which servers read differently: spell it out.")


def judge(target: str) -> Target | Denial:
    """RFC 3986 reading of an origin-form target (RFC 9112, 3.2.1)."""
    raw, _, query = target.partition("?")
    if not raw.startswith("/"):
        return _malformed("does not begin with a slash")
    if _VISIBLE.fullmatch(target) is None:
        return _malformed("holds characters that must be percent-encoded")
    if "#" in target:
        return _malformed("holds a fragment")
    if "\\" in raw:
        return _ambiguous("holds a backslash")
    if ";" in raw:
        return _ambiguous("holds a path parameter (;)")
    path = raw
    if "%" in raw:
        decoded = _decode(raw)
        if isinstance(decoded, Denial):
            return decoded
        path = decoded
    if "//" in path or "/." in path:
        resolved = _resolve(path)
        if resolved is None:
            return _ambiguous("leaves the root by dot segments")
        path = resolved
    return Target(path, query)


def _decode(raw: str) -> str | Denial:
    """Decode percent-encoding once. An encoded delimiter is data to one server and a delimiter to the next: refused."""
    if _BAD_ESCAPE.search(raw):
        return _malformed("holds a broken percent-encoding")
    if any(chr(int(code, 16)) in _AMBIGUOUS for code in _ESCAPE.findall(raw)):
        return _ambiguous("holds an encoded delimiter (/ % \\ ; ? # or NUL)")
    try:
        path = bytes(_ESCAPE.sub(lambda m: chr(int(m[1], 16)), raw), "latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return _malformed("is not UTF-8 when decoded")
    return path if path.isprintable() else _malformed("holds control characters")


def _resolve(path: str) -> str | None:
    """Merge slashes and remove dot segments (RFC 3986, 5.2.4); None where they lead above the root."""
    parts = path.split("/")[1:]
    kept: list[str] = []
    for part in parts:
        if part == "..":
            if not kept:
                return None
            kept.pop()
        elif part not in ("", "."):
            kept.append(part)
    closed = parts[-1] in ("", ".", "..") and kept
    return "/" + "/".join(kept) + ("/" if closed else "")


def host_name(authority: str) -> str:
    """The host of an authority, for comparing: lower case, without port and trailing dot; an IPv6 literal in its brackets, shortest form.

    "" where there is none that could be compared (an IPv6 address without brackets, a bracket that is never closed).
    """
    host = authority.strip().lower()
    if host.startswith("["):
        literal, closed, _ = host[1:].partition("]")
        address = parse(literal) if closed else None
        return f"[{address}]" if address is not None else ""
    name, colon, port = host.partition(":")
    if colon and port and not (port.isascii() and port.isdigit()):
        return ""
    return name.removesuffix(".")

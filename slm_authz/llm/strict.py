"""Strict JSON: the slow path that decides about everything unusual, and what both paths share.

Duplicate members are refused wherever they stand: no two readers agree on which one counts. Nesting beyond 64 is refused, and so is
what RFC 8259 does not know: NaN, Infinity, a byte order mark, bytes that are not UTF-8, lone surrogates.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

import msgspec

from slm_authz.reason import Denial, Reason

MAX_DEPTH: Final = 64
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_fast_decode: Final = msgspec.json.Decoder().decode

BROKEN: Final = "The body is not valid JSON (RFC 8259)."


class _DuplicateMember(ValueError):
    """An object has a member twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _DuplicateMember
    for name in members:
        if _SURROGATE.search(name):
            raise ValueError(name)
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_decoder: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, strict=True)


def _deeper_than(value: Any, depth: int) -> bool:
    layer = [value]
    for _ in range(depth):
        layer = [
            child for node in layer for child in (node.values() if isinstance(node, dict) else node) if isinstance(child, (dict, list))
        ]
        if not layer:
            return False
    return True


def decode_strictly(body: bytes) -> Any | Denial:
    """A document that every reader reads alike, or the refusal."""
    try:
        # msgspec refuses what json lets pass (lone surrogates, numbers out of range); json tells of duplicates.
        _fast_decode(body)
        value = _decoder.decode(body.decode("utf-8"))
    except _DuplicateMember:
        return Denial(Reason.AMBIGUOUS_REQUEST, "The body has an object with the same member twice: send each once.")
    except RecursionError:
        return _too_deep()
    except (ValueError, msgspec.MsgspecError):
        return Denial(Reason.MALFORMED_REQUEST, BROKEN)
    if isinstance(value, (dict, list)) and _deeper_than(value, MAX_DEPTH):
        return _too_deep()
    return value


def _too_deep() -> Denial:
    return Denial(Reason.MALFORMED_REQUEST, f"The body is nested deeper than {MAX_DEPTH} levels.")


def decode(body: bytes, members: frozenset[str]) -> dict[str, Any] | Denial:
    """The body's top-level object, in which each of `members` occurs once at most, under its plain spelling.

    The fast path is taken where nothing is unusual: no escape that could spell a name, every member that matters exactly once in the raw
    bytes, and too few brackets to nest deeply. It never accepts what the strict path refuses, but for duplicates of members that do not
    matter here.
    """
    try:
        value = _fast_decode(body)
    except RecursionError:
        return _too_deep()
    except (ValueError, msgspec.MsgspecError):
        return Denial(Reason.MALFORMED_REQUEST, BROKEN)
    if not isinstance(value, dict):
        return Denial(Reason.MALFORMED_REQUEST, "The body must be a JSON object.")
    if b"\\u" in body or body.count(b"{") + body.count(b"[") > MAX_DEPTH or not _each_once(body, value, members):
        strict = decode_strictly(body)
        return strict if isinstance(strict, (dict, Denial)) else Denial(Reason.MALFORMED_REQUEST, "The body must be a JSON object.")
    return value


def _each_once(body: bytes, value: dict[str, Any], members: frozenset[str]) -> bool:
    return all(body.count(_QUOTED[name]) == 1 for name in value if name in members)


class _Quoted(dict[str, bytes]):
    def __missing__(self, name: str) -> bytes:
        quoted = self[name] = f'"{name}"'.encode()
        return quoted


_QUOTED: Final = _Quoted()

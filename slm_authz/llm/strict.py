"""Strict JSON: one reading for every reader, or a refusal. Enters: body bytes. Leaves: the top-level object, or a `Denial`.

Refused wherever they stand: two members of one name (however spelled), nesting beyond 64, and what RFC 8259 does not know or leaves
open: NaN, Infinity, numbers out of range, a byte order mark, bytes that are not UTF-8, lone surrogates.

There is no list of names to search for. msgspec refuses all of the above except duplicates, of which it silently keeps the last; but a
dropped member takes its strings along, so the body then has more string delimiters than the strings that were kept account for.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from slm_authz.reason import Denial, Reason

MAX_DEPTH: Final = 64
"""Objects and lists inside one another, the top-level object included."""
MAX_VALUES: Final = 100_000
"""Members, elements, objects and lists in one body: a 4 MiB prompt with tools has a tenth of it, and two million would cost a second."""
_LARGE: Final = 65_536

BROKEN: Final = Denial(Reason.MALFORMED_REQUEST, "The body is not valid JSON (RFC 8259): send one object, in UTF-8.")
NO_OBJECT: Final = Denial(Reason.MALFORMED_REQUEST, "The body must be a JSON object.")
TOO_DEEP: Final = Denial(Reason.MALFORMED_REQUEST, f"The body is nested deeper than {MAX_DEPTH} levels: send it flatter.")
TOO_MANY: Final = Denial(Reason.MALFORMED_REQUEST, f"The body has more than {MAX_VALUES} members and elements: send fewer.")
TWICE: Final = Denial(Reason.AMBIGUOUS_REQUEST, "The body has an object with the same member twice: send each member once.")


def _finite(literal: str) -> float:
    number = float(literal)
    if number - number != 0:  # infinite: out of range, as msgspec itself refuses it
        raise ValueError
    return number


_decode: Final = msgspec.json.Decoder().decode
# msgspec's own way to a float with many digits is ten times slower than Python's: 4 MiB of them would take a second.
_decode_large: Final = msgspec.json.Decoder(float_hook=_finite).decode
# The closing quote is optional, so that a match never fails: a search that fails and begins anew would be quadratic.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def decode(body: bytes) -> dict[str, Any] | Denial:
    """The body's top-level object, which every reader reads alike."""
    large = len(body) > _LARGE
    if large and _values(body) > MAX_VALUES:
        return TOO_MANY
    try:
        document = (_decode_large if large else _decode)(body)
    except RecursionError:
        return TOO_DEEP
    except (ValueError, msgspec.MsgspecError):
        return BROKEN
    if type(document) is not dict:
        return NO_OBJECT
    # One walk over all containers; what it meets is appended, so that it needs no recursion.
    containers: list[Any] = [document]
    strings = 0
    for node in containers:
        if type(node) is dict:
            strings += len(node)
            node = node.values()  # noqa: PLW2901 - its names are counted, its values are walked like a list's
        for value in node:
            kind = type(value)
            if kind is str:
                strings += 1
            elif kind is dict or kind is list:
                containers.append(value)
    if len(containers) > MAX_DEPTH and _too_deep(document):
        return TOO_DEEP
    if body.count(b'"') != 2 * strings and _delimiters(body) != 2 * strings:
        return TWICE
    return document


def _delimiters(body: bytes) -> int:
    """Quotes that begin or end a string. Backslashes are taken in pairs from the left, as a reader does; what is left escapes."""
    if body.rfind(b"\\\\") >= 0:  # half the time of `in`
        body = body.replace(b"\\\\", b"")
    return body.count(b'"') - body.count(b'\\"')


def _values(body: bytes) -> int:
    """Values in a body, but for a few: what its commas separate and its brackets open, those inside its strings not counted."""
    found = _separators(body)
    return found if found <= MAX_VALUES else _separators(_STRING.sub(b"", body))


def _separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"{") + text.count(b"[")


def _too_deep(document: dict[str, Any]) -> bool:
    layer: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        inner = []
        for node in layer:
            inner += [value for value in (node.values() if type(node) is dict else node) if type(value) in (dict, list)]
        layer = inner
    return bool(layer)

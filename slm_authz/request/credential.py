"""Finds the credentials of a request, only where the configuration says. Enters: places, a request. Leaves: `Found` or a refusal.

A header, query parameter or cookie given twice is refused: no two servers agree on which one counts. Nothing here judges a credential.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_plus

import msgspec

from slm_authz.reason import Denial, Reason
from slm_authz.request.context import RequestContext

MANY: Final = Denial(Reason.MANY_CREDENTIALS, "Send exactly one credential, once.")
ENCODED: Final = Denial(
    Reason.AMBIGUOUS_REQUEST,
    "Spell the name of the credential's query parameter plainly: no percent-encoding, & before it, not a semicolon.",
)
_BLANK: Final = " \t"
"""Optional whitespace of RFC 9110, 5.6.3. Python's own idea of blanks is wider than any upstream's."""


class Place(msgspec.Struct, frozen=True):
    """Exactly one of header (with an optional scheme), query, cookie. Names of headers are lower-case."""

    header: str | None = None
    scheme: str | None = None
    query: str | None = None
    cookie: str | None = None


class Found(msgspec.Struct, frozen=True, gc=False):
    """Distinct credential strings in order of the places, and the names of the places that were filled.

    A place can be filled without a string: a header with a scheme that is not the configured one is nobody's, and must go all the same.
    Equal tuples of names are identical objects, so that what depends on them can be remembered by identity.
    """

    strings: tuple[str, ...]
    headers: tuple[str, ...]
    query: tuple[str, ...] = ()


class Finder:
    """Compiled from the configured places of all identity methods."""

    def __init__(self, places: Sequence[Place]) -> None:
        headers: dict[str, list[str]] = {}
        for place in places:
            if place.header is not None:
                headers.setdefault(place.header.lower(), []).append(place.scheme.lower() if place.scheme else "")
        self._headers = tuple((name, tuple(schemes)) for name, schemes in headers.items())
        self._queries = frozenset(place.query for place in places if place.query is not None)
        self._cookies = frozenset(place.cookie for place in places if place.cookie is not None)
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}

    def find(self, request: RequestContext, query: str = "") -> Found | Denial:
        """All credentials of a request; `query` is the raw query string."""
        headers = request.headers
        strings: list[str] = []
        filled: list[str] = []
        for name, schemes in self._headers:
            value = headers.get(name)
            if value is None:
                continue
            if name in request.repeated or "," in value:
                return MANY  # a gateway joins repeated headers by commas, and no credential holds one
            filled.append(name)
            string = _credential(value, schemes)
            if string and string not in strings:
                strings.append(string)
        queries: tuple[str, ...] = ()
        if self._queries and query:
            found = self._from_query(query, strings)
            if isinstance(found, Denial):
                return found
            queries = found
        if self._cookies and "cookie" in headers:
            refused = self._from_cookies(headers["cookie"], strings, filled)
            if refused is not None:
                return refused
        names = tuple(filled)
        return Found(tuple(strings), self._names.setdefault(names, names), queries)

    def _from_query(self, query: str, strings: list[str]) -> tuple[str, ...] | Denial:
        filled: list[str] = []
        for pair in query.split("&"):
            raw, _, value = pair.partition("=")
            if ";" in pair and any(unquote_plus(part.partition("=")[0]) in self._queries for part in pair.split(";")):
                return ENCODED  # a separator to some servers: to the gateway, which removes what we name, it is not
            name = unquote_plus(raw)
            if name not in self._queries:
                continue
            if raw != name:
                return ENCODED
            if name in filled:
                return MANY
            filled.append(name)
            string = unquote_plus(value)
            if string and string not in strings:
                strings.append(string)
        return tuple(filled)

    def _from_cookies(self, header: str, strings: list[str], filled: list[str]) -> Denial | None:
        seen: set[str] = set()
        for pair in header.replace(",", ";").split(";"):  # a comma: the join of headers that were sent one by one
            name, _, value = (part.strip(_BLANK) for part in pair.partition("="))
            if name not in self._cookies:
                continue
            if name in seen:
                return MANY
            seen.add(name)
            string = value.strip('"')
            if string and string not in strings:
                strings.append(string)
        if seen and "cookie" not in filled:
            filled.append("cookie")
        return None


def _credential(value: str, schemes: tuple[str, ...]) -> str:
    """What stands behind a configured scheme (RFC 9110, 11.4: case-insensitive, one or more spaces), or all where a place has none; else ""."""
    value = value.strip(_BLANK)
    scheme, space, rest = value.partition(" ")
    if space and scheme.lower() in schemes:
        return rest.strip(_BLANK)
    return value if "" in schemes else ""

"""Where a credential may stand, and what is refused because two servers would read it differently."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.reason import Denial
from slm_authz.request import RequestContext
from slm_authz.request.credential import Finder, Found, Place

DEFAULT = Finder([Place("authorization", "Bearer"), Place("x-api-key"), Place("api-key")])
EVERYWHERE = Finder([Place("authorization", "Bearer"), Place("x-api-key"), Place(query="key"), Place(cookie="key")])


def request(headers: dict[str, str], *repeated: str) -> RequestContext:
    return RequestContext("POST", "/v1/chat/completions", "h", headers, frozenset(repeated))


def told(answer: Found | Denial) -> Any:
    return answer.reason.value if isinstance(answer, Denial) else (answer.strings, answer.headers, answer.query)


def found(finder: Finder, headers: dict[str, str], query: str = "") -> Any:
    return told(finder.find(request(headers), query))


@pytest.mark.parametrize(
    ("value", "strings"),
    [
        ("Bearer k", ("k",)),
        ("bearer k", ("k",)),
        ("BEARER   k", ("k",)),
        (" Bearer k\t", ("k",)),
        ("Bearer a b", ("a b",)),
        ("Bearer", ()),
        ("Bearer ", ()),
        ("", ()),
        ("k", ()),  # the place has a scheme: a bare value is not what was configured
        ("Basic k", ()),
        ("Bearerk", ()),
        ("Bearer\tk", ()),
        ("Bearer\u00a0k", ()),
        ("Token Bearer k", ()),
    ],
)
def test_a_header_with_a_scheme(value: str, strings: tuple[str, ...]) -> None:
    assert found(DEFAULT, {"authorization": value}) == (strings, ("authorization",), ())


@pytest.mark.parametrize(
    ("value", "strings"), [("k", ("k",)), ("  k ", ("k",)), ("Bearer k", ("Bearer k",)), ("", ()), (" ", ()), ("\u00a0k", ("\u00a0k",))]
)
def test_a_header_without_a_scheme(value: str, strings: tuple[str, ...]) -> None:
    assert found(DEFAULT, {"x-api-key": value}) == (strings, ("x-api-key",), ())


def test_several_schemes_of_one_header() -> None:
    finder = Finder([Place("authorization", "Bearer"), Place("authorization", "Api-Key"), Place("Authorization")])
    for value in ("Bearer k", "api-key k", "k"):
        assert found(finder, {"authorization": value}) == (("k",), ("authorization",), ())
    assert found(finder, {"authorization": "Basic k"}) == (("Basic k",), ("authorization",), ())


def test_nothing_and_elsewhere() -> None:
    assert found(DEFAULT, {}) == ((), (), ())
    assert found(DEFAULT, {"x-key": "k", "cookie": "key=k", "proxy-authorization": "Bearer k"}, "key=k&authorization=Bearer+k") == (
        (),
        (),
        (),
    )


def test_the_same_string_in_two_places_is_one() -> None:
    both = {"authorization": "Bearer k", "x-api-key": "k"}
    assert found(DEFAULT, both) == (("k",), ("authorization", "x-api-key"), ())
    assert found(EVERYWHERE, {**both, "cookie": "key=k"}, "key=k") == (("k",), ("authorization", "x-api-key", "cookie"), ("key",))


def test_different_strings_are_all_told() -> None:
    """Whether two of them are credentials is for the methods to say, by their shape."""
    assert found(DEFAULT, {"authorization": "Bearer a", "x-api-key": "b"}) == (("a", "b"), ("authorization", "x-api-key"), ())


@pytest.mark.parametrize("value", ["Bearer a, Bearer b", "Bearer a,Bearer a", ",Bearer a", "Bearer a,", "Bearer a, b"])
def test_a_repeated_header_is_refused_however_it_comes(value: str) -> None:
    assert found(DEFAULT, {"authorization": value}) == "many_credentials"
    assert told(DEFAULT.find(request({"authorization": value}, "authorization"), "")) == "many_credentials"


def test_a_header_that_is_known_to_be_repeated_is_refused() -> None:
    assert told(DEFAULT.find(request({"x-api-key": "k"}, "x-api-key"), "")) == "many_credentials"
    assert told(DEFAULT.find(request({"x-api-key": "k"}, "accept"), "")) == (("k",), ("x-api-key",), ())


@pytest.mark.parametrize(
    ("query", "verdict"),
    [
        ("key=k", (("k",), (), ("key",))),
        ("a=1&key=k&b=2", (("k",), (), ("key",))),
        ("key=a%5Fb+c", (("a_b c",), (), ("key",))),
        ("key=a=b", (("a=b",), (), ("key",))),
        ("key", ((), (), ("key",))),
        ("key=", ((), (), ("key",))),
        ("KEY=k", ((), (), ())),
        ("xkey=k", ((), (), ())),
        ("a=key=k", ((), (), ())),
        ("%256bey=k", ((), (), ())),
        ("key=k&key=k", "many_credentials"),
        ("key=k&key=", "many_credentials"),
        ("key&key", "many_credentials"),
        ("%6bey=k", "ambiguous_request"),
        ("k%65y=k", "ambiguous_request"),
        ("%6Bey", "ambiguous_request"),
        ("key=k&%6bey=k", "ambiguous_request"),
        ("a=1;key=k", "ambiguous_request"),
        ("a=1;%6bey=k", "ambiguous_request"),
        ("key=k;a=1", "ambiguous_request"),
        ("a=1;b=2", ((), (), ())),
        ("%ff=k&%", ((), (), ())),
        ("&&=&", ((), (), ())),
    ],
)
def test_query_parameters(query: str, verdict: Any) -> None:
    assert found(EVERYWHERE, {}, query) == verdict


@pytest.mark.parametrize(
    ("cookie", "verdict"),
    [
        ("key=k", (("k",), ("cookie",), ())),
        ("a=1; key=k; b=2", (("k",), ("cookie",), ())),
        ('a=1;key="k"', (("k",), ("cookie",), ())),
        ("key=a=b", (("a=b",), ("cookie",), ())),
        ("key=", ((), ("cookie",), ())),
        ("key", ((), ("cookie",), ())),
        ("a=1; b=2", ((), (), ())),
        ("KEY=k", ((), (), ())),
        ("key=k; key=k", "many_credentials"),
        ("key=k,key=k", "many_credentials"),
        ("key=k; key", "many_credentials"),
    ],
)
def test_cookies(cookie: str, verdict: Any) -> None:
    assert found(EVERYWHERE, {"cookie": cookie}) == verdict


def test_equal_names_are_identical_objects() -> None:
    answers = [DEFAULT.find(request({"x-api-key": "k", "authorization": "Bearer k"})) for _ in range(2)]
    assert isinstance(answers[0], Found)
    assert isinstance(answers[1], Found)
    assert answers[0].headers is answers[1].headers


printable = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=30)


@given(st.dictionaries(st.sampled_from(["authorization", "x-api-key", "api-key", "cookie"]), st.text(max_size=40)), st.text(max_size=60))
def test_anything_is_read_or_refused(headers: dict[str, str], query: str) -> None:
    """Never an exception; a filled place is always named, so that it never reaches the upstream."""
    answer = EVERYWHERE.find(request(headers), query)
    if isinstance(answer, Found):
        assert {"authorization", "x-api-key"} & headers.keys() <= set(answer.headers)
        assert len(set(answer.strings)) == len(answer.strings)
        assert "" not in answer.strings


@given(st.lists(st.tuples(st.sampled_from(["a", "key", "b"]), printable), max_size=5))
def test_a_query_that_a_client_library_encodes_is_read_back(pairs: list[tuple[str, str]]) -> None:
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs)
    values = [value for name, value in pairs if name == "key"]
    expected: Any = "many_credentials" if len(values) > 1 else (tuple(v for v in values if v), (), ("key",) * len(values))
    assert found(EVERYWHERE, {}, query) == expected


@given(st.text(st.sampled_from("key%6b5;&=+ay"), max_size=12))
def test_what_any_reader_takes_for_the_parameter_is_named_or_refused(query: str) -> None:
    """Our reading is never looser, and what we do not name reaches the upstream: there no decoding may bring the name up."""
    from urllib.parse import parse_qsl

    answer = EVERYWHERE.find(request({}), query)
    readings = [name for text in (query, query.replace(";", "&")) for name, _ in parse_qsl(text, keep_blank_values=True)]
    if "key" in readings:
        assert isinstance(answer, Denial) or answer.query == ("key",)

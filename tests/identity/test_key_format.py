"""`slm_<env>_<id>_<secret><check>`, held to a second, slower reading of the same sentence."""

from __future__ import annotations

import binascii
import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.identity.key_format import ALPHABET, LENGTH, checksum, mint, parse, random_text

EXAMPLE = "slm_test_0123456789AB_0123456789ABCDEFGHIJKLMNOPQRSTUV3q5Muq"

characters = st.sampled_from(string.digits + string.ascii_uppercase + string.ascii_lowercase)
keys = st.builds(
    mint,
    st.sampled_from(["live", "test"]),
    st.text(characters, min_size=12, max_size=12),
    st.text(characters, min_size=32, max_size=32),
)


def reference(key: str) -> tuple[str, str] | None:
    """The sentence of the product contract, word by word."""
    if len(key) != 60 or any(ord(c) > 126 for c in key):
        return None
    prefix, env, key_id, rest = [*key.split("_"), "", "", "", ""][:4]
    whole = f"{prefix}_{env}_{key_id}_{rest}" == key
    if not whole or prefix != "slm" or env not in ("live", "test") or len(key_id) != 12 or len(rest) != 38:
        return None
    order = string.digits + string.ascii_uppercase + string.ascii_lowercase
    if any(c not in order for c in key_id + rest):
        return None
    value = 0
    for c in key[-6:]:
        value = value * 62 + order.index(c)
    return (env, key_id) if value == binascii.crc32(key[:-6].encode()) else None


def test_the_contracts_example() -> None:
    parts = parse(EXAMPLE)
    assert parts is not None
    assert (parts.env, parts.id) == ("test", "0123456789AB")
    assert mint("test", "0123456789AB", "0123456789ABCDEFGHIJKLMNOPQRSTUV") == EXAMPLE
    assert len(EXAMPLE) == LENGTH
    assert reference(EXAMPLE) == ("test", "0123456789AB")


def test_the_alphabet_is_in_the_contracts_order() -> None:
    assert "".join(ALPHABET) == string.digits + string.ascii_uppercase + string.ascii_lowercase


def test_a_small_checksum_is_padded() -> None:
    small = next(text for text in map(str, itertools.count()) if binascii.crc32(text.encode()) < 62**5)
    assert checksum(small).startswith("0")
    assert len(checksum(small)) == 6


@given(keys)
def test_what_is_minted_is_read(key: str) -> None:
    parts = parse(key)
    assert parts is not None
    assert reference(key) == (parts.env, parts.id)


@given(keys, st.integers(0, 59), characters)
def test_one_wrong_character_is_always_noticed(key: str, at: int, character: str) -> None:
    mistyped = key[:at] + character + key[at + 1 :]
    assert (parse(mistyped) is not None) == (mistyped == key)


@given(keys, st.integers(0, 58))
def test_two_swapped_neighbours_are_always_noticed(key: str, at: int) -> None:
    swapped = key[:at] + key[at + 1] + key[at] + key[at + 2 :]
    assert (parse(swapped) is not None) == (swapped == key)


@given(st.one_of(st.text(max_size=80), st.text(characters, min_size=60, max_size=60), st.from_regex(r"slm_(live|test)_[0-9A-Za-z_]{51}")))
def test_anything_else_is_no_key(text: str) -> None:
    assert (parse(text) is None) == (reference(text) is None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        EXAMPLE + "\n",
        EXAMPLE + " ",
        " " + EXAMPLE,
        EXAMPLE[:-1],
        EXAMPLE + "0",
        EXAMPLE.upper(),
        EXAMPLE.lower(),
        EXAMPLE.replace("test", "prod"),
        EXAMPLE.replace("slm_", "SLM_"),
        EXAMPLE.replace("0123456789AB_", "0123456789A-_"),
        EXAMPLE.replace("3q5Muq", "000000"),
        EXAMPLE.replace("0", "٠"),  # a digit to `str.isdigit`, not to us
        EXAMPLE.replace("A", "Ａ"),
        EXAMPLE + "\x00",
        "slm_test_" + "0" * 60_000,
        "\udcff" * 60,
    ],
)
def test_near_misses(text: str) -> None:
    assert parse(text) is None


def test_every_character_is_equally_likely() -> None:
    made = random_text(248, lambda count: bytes(i % 256 for i in range(count + 8)))
    assert {made.count(c) for c in ALPHABET} == {4}


def test_bytes_that_would_favour_some_characters_are_thrown_away() -> None:
    chunks = iter([bytes(range(248, 256)), bytes([255, 61]), bytes([0, 1, 2])])
    assert random_text(3, lambda _: next(chunks)) == "z01"

"""What a key's record says, and what may not enter it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.errors import UsageError
from slm_authz.identity.record import (
    NOBODY,
    KeyRecord,
    labelled,
    model_list,
    named,
    networks,
    rfc3339,
    scope_list,
    visible,
)

MEMBERS = [
    "id", "client", "tenant", "tier", "name", "env", "models", "scopes", "allow_ip", "labels", "state", "created_at", "expires_at",
    "last_used_at", "version",
]  # fmt: skip


def record(**changes: Any) -> KeyRecord:
    bare = KeyRecord(
        "0123456789AB", "acme", None, "free", None, "live", None, (), (), {}, 1_700_000_000_123, None, None, False, None, 1, "p", b"d" * 32
    )
    return msgspec.structs.replace(bare, **changes)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "active"),
        ({"expires_at": 1001}, "active"),
        ({"expires_at": 1000}, "expired"),
        ({"expires_at": 999}, "expired"),
        ({"disabled": True}, "disabled"),
        ({"disabled": True, "expires_at": 1}, "disabled"),
        ({"revoked_at": 999}, "revoked"),
        ({"revoked_at": 999, "disabled": True, "expires_at": 1}, "revoked"),
    ],
)
def test_states(changes: dict[str, Any], state: str) -> None:
    assert record(**changes).state(1000) == state


def test_the_stable_json() -> None:
    bare = record().public(0)
    assert list(bare) == MEMBERS == list(NOBODY)
    assert bare["created_at"] == "2023-11-14T22:13:20.123Z"
    assert [bare[member] for member in ("tenant", "name", "models", "expires_at", "last_used_at")] == [None] * 5
    assert (bare["scopes"], bare["allow_ip"], bare["labels"], bare["version"]) == ([], [], {}, 1)
    full = record(models=("m",), scopes=("a", "b"), labels={"team": "x"}, allow_ip=("10.0.0.0/8",), expires_at=0, last_used_at=1).public(0)
    assert (full["models"], full["scopes"], full["labels"]) == (["m"], ["a", "b"], {"team": "x"})
    assert (full["expires_at"], full["last_used_at"]) == ("1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00.001Z")
    assert "digest" not in str(full)


@given(st.integers(0, 253_402_300_799_999))
def test_times_keep_their_milliseconds(millis: int) -> None:
    text = rfc3339(millis)
    assert text is not None
    assert text.endswith("Z")
    assert (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) == millis


BAD_HEADER_VALUES = ["", " ", "a b", "a\r\nx-slm-tier: pro", "a\n", "\x00", "ü", "a" * 257, "a\x7f", "\t"]


@pytest.mark.parametrize("value", BAD_HEADER_VALUES)
def test_what_cannot_travel_in_a_header_is_refused(value: str) -> None:
    with pytest.raises(UsageError):
        visible("--client", value)
    with pytest.raises(UsageError):
        scope_list([value])
    with pytest.raises(UsageError):
        model_list([value])
    with pytest.raises(UsageError):
        labelled({value: "x"})


@given(st.text(max_size=300))
def test_visible_means_visible_ascii_of_at_most_256(value: str) -> None:
    fits = 1 <= len(value) <= 256 and all(0x21 <= ord(c) <= 0x7E for c in value)
    try:
        assert visible("--client", value) == value
        assert fits
    except UsageError:
        assert not fits


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (scope_list, ["a,b"]),
        (model_list, ["a,b"]),
        (model_list, []),
        (scope_list, ["a" * 128, "b" * 128]),  # 257 bytes when joined
        (scope_list, [f"s{n}" for n in range(65)]),
        (model_list, [f"m{n}" for n in range(65)]),
        (networks, ["300.0.0.1"]),
        (networks, ["10.0.0.0/33"]),
        (networks, ["10.0.0.0/8, 11.0.0.0/8"]),
        (networks, [""]),
        (networks, ["localhost"]),
        (networks, ["fe80::1%eth0"]),
        (networks, [f"10.0.0.{n}" for n in range(65)]),
        (named, ""),
        (named, "a\nb"),
        (named, "a" * 257),
        (labelled, {"k": "v\n"}),
        (labelled, {"k": "v" * 257}),
        (labelled, {"a b": "v"}),
        (labelled, {f"k{n}": "" for n in range(65)}),
    ],
)
def test_refused(check: Callable[[Any], Any], values: Any) -> None:
    with pytest.raises(UsageError) as refused:
        check(values)
    assert "\n" not in str(refused.value)


def test_accepted() -> None:
    assert scope_list(["a" * 128, "b" * 127]) == ("a" * 128, "b" * 127)
    assert scope_list(["b", "a", "b"]) == ("b", "a")
    assert scope_list([]) == ()
    assert model_list(None) is None
    assert model_list(["phi-*", "m"]) == ("phi-*", "m")
    assert len(model_list([f"a-model-with-a-long-name-{n}" for n in range(60)]) or ()) == 60
    assert named("Build server 7") == "Build server 7"
    assert named(None) is None
    assert labelled({"team": "red fox", "empty": ""}) == {"team": "red fox", "empty": ""}


def test_networks_are_kept_in_canonical_form() -> None:
    given_, canonical = ["10.1.2.3", "10.0.0.0/8", "10.255.0.0/8", "2001:DB8::/32", "::ffff:192.0.2.7", "::ffff:10.0.0.0/104", "::/0"], [
        "10.1.2.3/32", "10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32", "::/0",
    ]  # fmt: skip
    assert networks(given_) == tuple(canonical)

"""The signed hold: what we signed comes back as its decision, and nothing else does, whatever was changed and however it is spelled."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slm_authz.identity.principal import Principal
from slm_authz.policy.table import Permit, Table
from slm_authz.quota.account import QuotaTable
from slm_authz.quota.counters import Admission, Grant
from slm_authz.quota.hold import VERSION, Pending, Signer, Take
from slm_authz.quota.limit import FIXED, TOKENS
from slm_authz.quota.window import Calendar
from slm_authz.settings.schema import Settings
from slm_authz.store.memory import MemoryCounters

KEY = b"k" * 32
SIGNER = Signer(KEY)
ID = "0123456789abcdef0123456789abcdef"


def pending(decision_id: str = ID, admitted: int = 1_700_000_000_000, takes: tuple[Take, ...] = ()) -> Pending:
    return Pending(decision_id, admitted, 0, takes, "m", "openai.chat", False, False, True, 1, 2, 0, 0, 0)


def take(window: int = 60_000, amount: int = 7) -> Take:
    return Take("key", FIXED, TOKENS, window, amount)


def signed(
    names: list[str], amounts: list[tuple[int, int]], *, signer: Signer = SIGNER, decision_id: str = ID, admitted: int = 1_700_000_000_000
) -> str:
    takes = tuple(take(window, amount) for window, amount in amounts)
    return signer.sign(pending(decision_id, admitted, takes), names)


HOLD = signed(["requests/fixed/minute/client//acme/acme", "tokens/fixed/day/client//acme/acme"], [(60_000, 1), (86_400_000, 1234)])

# Names of counters as an account quotes them: visible ASCII in which `;`, `=` and `%` are escaped.
names = st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=";=%"), max_size=40)
counters = st.lists(st.tuples(names, st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1)), max_size=4)
ids = st.text(alphabet="0123456789abcdef", min_size=1, max_size=32)


# -- there and back


def test_a_hold_is_its_version_its_facts_and_its_signature() -> None:
    payload, mac = HOLD.rsplit(";", 1)
    assert payload == (
        f"1;{ID};1700000000000;requests/fixed/minute/client//acme/acme=60000:1;tokens/fixed/day/client//acme/acme=86400000:1234"
    )
    assert re.fullmatch("[0-9a-f]+", mac)
    assert SIGNER.verify(HOLD) == ID


def test_a_hold_of_a_call_that_no_limit_counts_is_signed_too() -> None:
    hold = signed([], [])
    assert hold.startswith(f"{VERSION};{ID};1700000000000;")
    assert SIGNER.verify(hold) == ID


@given(decision_id=ids, admitted=st.integers(0, 2**53 - 1), taken=counters)
def test_what_was_signed_comes_back_as_its_decision(decision_id: str, admitted: int, taken: list[tuple[str, int, int]]) -> None:
    hold = signed([name for name, _, _ in taken], [(w, a) for _, w, a in taken], decision_id=decision_id, admitted=admitted)
    assert SIGNER.verify(hold) == decision_id
    assert Signer(KEY).verify(hold) == decision_id


def test_signing_leaves_no_trace_in_the_signer() -> None:
    signer = Signer(KEY)
    first = signed(["a"], [(0, 1)], signer=signer)
    for amount in range(20):
        signer.verify(signed(["b"], [(0, amount)], signer=signer))
        signer.verify("rubbish")
    assert signed(["a"], [(0, 1)], signer=signer) == first == signed(["a"], [(0, 1)], signer=Signer(KEY))


def test_every_counter_needs_its_name() -> None:
    for quoted in ([], ["a"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match="zip"):
            SIGNER.sign(pending(takes=(take(), take())), quoted)


# -- what is signed


def test_every_fact_is_under_the_signature() -> None:
    holds = [
        signed(["a"], [(0, 1)]),
        signed(["b"], [(0, 1)]),
        signed(["a"], [(1, 1)]),
        signed(["a"], [(0, 2)]),
        signed(["a", "a"], [(0, 1), (0, 1)]),
        signed([], []),
        signed(["a"], [(0, 1)], decision_id=ID[::-1]),
        signed(["a"], [(0, 1)], admitted=0),
    ]
    assert len({hold.rpartition(";")[2] for hold in holds}) == len(holds)


def test_a_signature_has_at_least_128_bits() -> None:
    macs = [int(signed(["a"], [(0, amount)]).rpartition(";")[2], 16) for amount in range(400)]
    assert all(len(signed(["a"], [(0, amount)]).rpartition(";")[2]) * 4 >= 128 for amount in range(20))
    # Each of its bits takes both values: none of them is padding.
    assert all(any(mac >> bit & 1 for mac in macs) and not all(mac >> bit & 1 for mac in macs) for bit in range(128))


@given(left=counters, right=counters)
def test_different_facts_have_different_signatures(left: list[tuple[str, int, int]], right: list[tuple[str, int, int]]) -> None:
    assume(left != right)
    one, other = (signed([name for name, _, _ in taken], [(w, a) for _, w, a in taken]) for taken in (left, right))
    assert one.rpartition(";")[2] != other.rpartition(";")[2]


# -- what is refused


@given(at=st.integers(0, len(HOLD) - 1), character=st.characters(codec="utf-8") | st.characters(categories=["Cs"]))
def test_any_changed_character_is_refused(at: int, character: str) -> None:
    assume(character != HOLD[at])
    assert SIGNER.verify(HOLD[:at] + character + HOLD[at + 1 :]) is None


@pytest.mark.parametrize("at", range(len(HOLD)))
def test_each_character_counts(at: int) -> None:
    changed = "0" if HOLD[at] != "0" else "1"
    assert SIGNER.verify(HOLD[:at] + changed + HOLD[at + 1 :]) is None
    assert SIGNER.verify(HOLD[:at] + HOLD[at + 1 :]) is None
    assert SIGNER.verify(HOLD[:at] + changed + HOLD[at:]) is None
    assert SIGNER.verify(HOLD[:at] + "\udc80" + HOLD[at + 1 :]) is None
    if HOLD[at].upper() != HOLD[at]:
        assert SIGNER.verify(HOLD[:at] + HOLD[at].upper() + HOLD[at + 1 :]) is None


@given(decision_id=ids, taken=counters, data=st.data())
def test_no_part_of_a_hold_stands_for_it(decision_id: str, taken: list[tuple[str, int, int]], data: st.DataObject) -> None:
    hold = signed([name for name, _, _ in taken], [(w, a) for _, w, a in taken], decision_id=decision_id)
    cut = data.draw(st.integers(0, len(hold) - 1))
    for part in (hold[:cut], hold[cut + 1 :], hold + hold[cut:], hold[:cut] + hold):
        assert SIGNER.verify(part) is None or part == hold


@given(hold=st.text() | st.text(alphabet="0123456789abcdef;=:/"))
def test_text_of_any_kind_is_not_a_hold(hold: str) -> None:
    assert SIGNER.verify(hold) is None


@pytest.mark.parametrize(
    "hold",
    [
        "",
        ";",
        ";;",
        ";;;;",
        "1",
        f"1;{ID}",
        f"1;{ID};1700000000000;",
        f"1;{ID};1700000000000;{'0' * 32}",
        HOLD + ";",
        ";" + HOLD,
        HOLD + "\n",
        " " + HOLD,
        HOLD + " ",
        HOLD + "\0",
        HOLD.upper(),
        HOLD.replace(";", ","),
        HOLD.rpartition(";")[0],
        HOLD.rpartition(";")[2],
        HOLD.rpartition(";")[0] + ";",
        HOLD.rpartition(";")[0] + ";" + HOLD.rpartition(";")[2][:-1],
        HOLD.rpartition(";")[0] + ";" + HOLD.rpartition(";")[2] * 2,
        HOLD.replace("1234", "0"),
        HOLD.replace("acme", "evil"),
        HOLD.replace("0", "٠"),
        HOLD.replace("a", "а"),  # Cyrillic
        HOLD + "\u200b",
        "é",
        "\ud800",
        "\udcff" * 40,
        f"1;\ud800;0;{'0' * 32}",
        f"1;{ID};0;\ud800",
        f"1;{ID};0;{'é' * 32}",
        "x" * 1_000_000,
        ";" * 100_000,
    ],
)
def test_a_table_of_forgeries(hold: str) -> None:
    assert SIGNER.verify(hold) is None


@given(key=st.binary(min_size=1, max_size=64), other=st.binary(min_size=1, max_size=64), taken=counters)
def test_another_key_is_another_signature(key: bytes, other: bytes, taken: list[tuple[str, int, int]]) -> None:
    assume(key != other)
    hold = signed([name for name, _, _ in taken], [(w, a) for _, w, a in taken], signer=Signer(key))
    assert Signer(key).verify(hold) == ID
    assert Signer(other).verify(hold) is None


def test_keys_that_differ_in_trailing_zeros_differ() -> None:
    hold = signed(["a"], [(0, 1)], signer=Signer(b"k"))
    assert Signer(b"k\0").verify(hold) is None


@pytest.mark.parametrize("version", ["2", "0", "10", "11", "01", "1.0", "1 ", " 1", "+1", "-1", "", "v1", "١"])
def test_a_hold_of_another_release_is_refused_although_its_signature_is_good(version: str) -> None:
    payload = f"{version};{ID};1700000000000;a=0:1"
    assert SIGNER.verify(f"{payload};{SIGNER._mac(payload)}") is None


def test_the_version_of_this_release_is_1() -> None:
    payload = f"1;{ID};1700000000000;a=0:1"
    assert SIGNER.verify(f"{payload};{SIGNER._mac(payload)}") == ID
    assert signed(["a"], [(0, 1)]) == f"{payload};{SIGNER._mac(payload)}"


# -- holds as the store makes them


@pytest.mark.parametrize(
    ("client", "tenant"),
    [("acme", None), ("a;b=c:d", "t;=%"), ("%3B", None), ("a/b", "c"), ("~!@#$^&*()_+{}|", None), (";" * 40, "=" * 40)],
)
def test_no_subject_breaks_out_of_its_place(client: str, tenant: str | None, noon: int) -> None:
    settings = Settings.model_validate(
        {
            "version": 1,
            "identity": [{"api_key": {}}],
            "models": {"m": {"limits": [{"concurrent": 3}]}},
            "tiers": {
                "free": {
                    "models": ["m"],
                    "limits": [{"requests": 5, "per": "day"}, {"tokens": 50, "per": "hour", "by": "tenant", "models": ["m*"]}],
                }
            },
        }
    )
    policy = Table.build(settings)
    principal = Principal("api_key", client, "free", tenant=tenant)
    account = QuotaTable(settings).account(principal, Permit(policy.tiers["free"], policy.models["m"]), "")
    (grant,) = MemoryCounters(SIGNER, Calendar(), 900_000).admit([Admission(pending(), account, (1, 3, 0, 1))], noon)
    assert isinstance(grant, Grant)
    hold = SIGNER.sign(grant.pending, grant.quoted)
    assert SIGNER.verify(hold) == ID
    assert hold.isascii()
    assert hold.isprintable()
    version, decision_id, admitted, *parts, _ = hold.split(";")
    assert (version, decision_id, admitted) == ("1", ID, str(noon))
    assert len(parts) == 3
    assert [re.fullmatch(r"[^=]+=(\d+):(\d+)", part) is not None for part in parts] == [True] * 3
    assert [part.rpartition("=")[2] for part in parts] == [f"{noon - noon % 86_400_000}:1", f"{noon}:3", "0:1"]

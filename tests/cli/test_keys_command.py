"""`slm-authz keys …`: what a person or a script meets in the whole life of a key: words, JSON, exit codes, and never a secret again.

Every command is a new call of `main` on the same files, as a new process would be; the clock is an argument.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import shlex
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from slm_authz.cli import keys
from slm_authz.cli.main import main
from slm_authz.identity import key_format
from slm_authz.identity.lifecycle import Lifecycle
from slm_authz.store import sqlite

CONFIG: Final = """\
version: 1
identity: [{api_key: {}}]
models: {phi-4-mini: {aliases: [phi4]}, qwen3-1.7b: {}}
tiers: {free: {models: [phi-4-mini]}, pro: {models: ["*"]}}
store: {url: "sqlite:///./data/slm-authz.db"}
"""
ONE_TIER: Final = CONFIG.replace('free: {models: [phi-4-mini]}, pro: {models: ["*"]}', 'only: {models: ["*"]}')
MEMBERS: Final = [
    "id", "client", "tenant", "tier", "name", "env", "models", "scopes", "allow_ip", "labels", "state", "created_at", "expires_at",
    "last_used_at", "version",
]  # fmt: skip
NOON_TEXT: Final = "2023-11-15T12:00:00.000Z"
DAY: Final = 86_400_000
NEEDED: Final = {
    "create": ["--client", "acme", "--tier", "free"],
    "list": [],
    "show": ["0123456789AB"],
    "update": ["0123456789AB", "--tier", "pro"],
    "verify": [],
    "disable": ["0123456789AB"],
    "enable": ["0123456789AB"],
    "rotate": ["0123456789AB"],
    "revoke": ["0123456789AB"],
}
"""The least that each action must be told."""
BY_ID: Final = {name: words for name, words in NEEDED.items() if words[:1] == ["0123456789AB"]}


class Said(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


class Desk:
    """A configuration, a store beside it that the first command makes, and a clock that stands still."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str], now: int) -> None:
        self.config = directory / "slm-authz.yaml"
        self.config.write_text(CONFIG)
        self.data = directory / "data"
        self.database = self.data / "slm-authz.db"
        self.now = now
        self._capsys = capsys

    def run(self, *words: str) -> Said:
        """`slm-authz keys WORDS -c FILE`."""
        code = main(["keys", *words, "-c", str(self.config)])
        return Said(code, *self._capsys.readouterr())

    def json(self, *words: str, code: int = 0) -> Any:
        """The one document that `--output json` prints."""
        said = self.run(*words, "--output", "json")
        assert (said.code, said.err) == (code, "")
        (line,) = said.out.splitlines()
        return json.loads(line)

    def make(self, client: str = "acme", *words: str, tier: str = "free") -> dict[str, Any]:
        """A new key with its secret."""
        made: dict[str, Any] = self.json("create", "--client", client, "--tier", tier, *words)
        return made

    def ids(self, *words: str) -> list[str]:
        """Ids that `list` finds."""
        return [key["id"] for key in self.json("list", *words)["data"]]

    def states(self) -> dict[str, str]:
        """State of every key, by id."""
        return {key["id"]: key["state"] for key in self.json("list")["data"]}


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, noon: int) -> Desk:
    for name in ("SLM_AUTHZ_CONFIG", "SLM_AUTHZ_PEPPER", "SLM_AUTHZ_PEPPER_FILE"):
        monkeypatch.delenv(name, raising=False)
    one = Desk(tmp_path, capsys, noon)
    monkeypatch.setattr(time, "time_ns", lambda: one.now * 1_000_000)
    return one


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """What comes in on standard input."""

    def type_in(text: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))

    return type_in


def without_key(made: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in made.items() if name != "key"}


def other(letter: str) -> str:
    """Another letter of a key's alphabet."""
    return "1" if letter == "0" else "0"


# -- create


def test_create_takes_every_flag_and_answers_with_the_contracts_members_and_the_key(desk: Desk) -> None:
    made = desk.json(
        "create", "--client", "acme", "--tenant", "corp", "--tier", "pro", "--name", "build server", "--expires", "90d", "--models",
        "phi-4-mini, qwen*", "--scopes", "chat,embed", "--allow-ip", "10.1.2.3/8", "2001:db8::/32", "--allow-ip", "192.0.2.7", "--label",
        "team=search", "cost-centre=42", "--label", "note=a=b c", "--env", "test",
    )  # fmt: skip
    assert list(made) == [*MEMBERS, "key"]
    parts = key_format.parse(made["key"])
    assert parts is not None
    assert (parts.env, parts.id) == ("test", made["id"])
    assert without_key(made) == {
        "id": parts.id,
        "client": "acme",
        "tenant": "corp",
        "tier": "pro",
        "name": "build server",
        "env": "test",
        "models": ["phi-4-mini", "qwen*"],
        "scopes": ["chat", "embed"],
        "allow_ip": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"],
        "labels": {"team": "search", "cost-centre": "42", "note": "a=b c"},
        "state": "active",
        "created_at": NOON_TEXT,
        "expires_at": "2024-02-13T12:00:00.000Z",
        "last_used_at": None,
        "version": 1,
    }
    assert desk.json("show", made["id"]) == without_key(made)


def test_what_is_not_said_at_creation_is_null_or_empty_and_never_missing(desk: Desk) -> None:
    made = desk.make()
    assert made["key"].startswith(f"slm_live_{made['id']}_")
    assert {name: made[name] for name in MEMBERS[2:] if name not in ("tier", "state", "created_at", "version")} == {
        "tenant": None,
        "name": None,
        "env": "live",
        "models": None,
        "scopes": [],
        "allow_ip": [],
        "labels": {},
        "expires_at": None,
        "last_used_at": None,
    }


def test_a_person_is_shown_the_key_once_on_a_line_of_its_own(desk: Desk) -> None:
    said = desk.run("create", "--client", "acme", "--tier", "free", "--expires", "1d")
    key = said.out.splitlines()[0]
    parts = key_format.parse(key)
    assert (said.code, said.err) == (0, "")
    assert parts is not None
    assert said.out.count(key) == 1
    assert f"only time that the key is shown. Id {parts.id}, client acme, tier free" in said.out
    assert "2023-11-16T12:00:00.000Z" in said.out


def test_no_two_keys_of_the_command_are_alike(desk: Desk) -> None:
    made = [desk.make() for _ in range(5)]
    assert len({key["id"] for key in made} | {key["key"] for key in made}) == 10


def test_the_tier_may_be_left_out_where_there_is_only_one(desk: Desk) -> None:
    desk.config.write_text(ONE_TIER)
    assert desk.json("create", "--client", "acme")["tier"] == "only"


def test_with_several_tiers_one_must_be_named_and_all_are_told(desk: Desk) -> None:
    said = desk.run("create", "--client", "acme")
    assert (said.code, said.out) == (2, "")
    assert "--tier: free, pro" in said.err
    assert desk.ids() == []


@pytest.mark.parametrize(
    ("words", "unknown", "fix"),
    [
        (["--tier", "gold"], "'gold'", "free, pro"),
        (["--tier", ""], "''", "free, pro"),
        (["--tier", "Free"], "'Free'", "free, pro"),
        (["--tier", "free", "--models", "gpt-9"], "'gpt-9'", "phi-4-mini, qwen3-1.7b"),
        (["--tier", "free", "--models", "phi-4-mini,gpt-9"], "'gpt-9'", "phi-4-mini, qwen3-1.7b"),
        (["--tier", "free", "--models", "gpt-*"], "'gpt-*'", "phi-4-mini, qwen3-1.7b"),
    ],
)
def test_an_unknown_tier_or_model_is_a_no_that_names_the_known_ones(desk: Desk, words: list[str], unknown: str, fix: str) -> None:
    said = desk.run("create", "--client", "acme", *words)
    assert (said.code, said.out) == (1, "")
    assert unknown in said.err
    assert fix in said.err
    assert desk.ids() == []


@pytest.mark.parametrize("models", ["phi-4-mini", "phi4", "*", "qwen*,phi4"])
def test_models_are_names_aliases_or_globs_of_configured_ones(desk: Desk, models: str) -> None:
    assert desk.make("acme", "--models", models)["models"] == models.split(",")


@pytest.mark.parametrize("models", ["", ",", " , "], ids=repr)
def test_a_list_of_no_models_would_be_read_as_all_or_none_and_is_wrong_usage(desk: Desk, models: str) -> None:
    said = desk.run("create", "--client", "acme", "--tier", "free", f"--models={models}")
    assert (said.code, said.out) == (2, "")
    assert "--models takes names or globs" in said.err
    assert desk.ids() == []


def test_a_key_that_may_use_nothing_is_made_and_said_to_be_one(desk: Desk) -> None:
    said = desk.run("create", "--client", "acme", "--tier", "free", "--models", "qwen3-1.7b", "--output", "json")
    assert said.code == 0
    assert "tier free has none of these models" in said.err
    assert json.loads(said.out)["models"] == ["qwen3-1.7b"]


def test_what_is_said_of_a_key_that_may_use_nothing_is_said_of_a_key_that_was_made(desk: Desk) -> None:
    said = desk.run("create", "--client", "two words", "--tier", "free", "--models", "qwen3-1.7b")
    assert said.code == 2
    assert "may use nothing" not in said.err
    assert desk.ids() == []


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        (["--models", "qwen3-1.7b"], True),
        (["--models", "qwen3-1.7b", "--tier", "pro"], False),
        (["--tier", "pro"], False),
        (["--models", "*"], False),
        (["--name", "N"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_key_that_may_use_nothing_any_more_is_said_to_be_one(desk: Desk, words: list[str], warned: bool) -> None:
    key_id = desk.make("acme", "--models", "phi-4-mini")["id"]
    said = desk.run("update", key_id, *words)
    assert said.code == 0
    assert ("may use nothing" in said.err) == warned


def test_a_tier_that_has_none_of_a_keys_models_is_said_to(desk: Desk) -> None:
    key_id = desk.make("acme", "--models", "qwen*", tier="pro")["id"]
    assert "tier free has none of these models" in desk.run("update", key_id, "--tier", "free").err


def test_a_key_whose_tier_is_gone_may_use_nothing_whatever_its_models(desk: Desk) -> None:
    key_id = desk.make()["id"]
    desk.config.write_text(ONE_TIER)
    said = desk.run("update", key_id, "--models", "phi4")
    assert said.code == 0
    assert "every call with this key is 403" in said.err


BAD_VALUES: Final = {
    "--client": ("", "two words", "a\rb", "a\nb", "acme\r\nx-slm-tier: pro", "a\tb", "ä", "\u212a", "\x7f", "\x00", "\udcff", "x" * 257),
    "--tenant": ("", "two words", "a\nb", "é", "x" * 257),
    "--name": ("", "a\nb", "a\x1b[2Jb", "ümlaut", "x" * 257),
    "--scopes": ("two words", "a\r\nb", "é", "x" * 257, ",".join(f"scope-{n:04d}" for n in range(30))),
    "--allow-ip": (
        "10.0.0.0/33",
        "10.0.0",
        "2001:db8::/129",
        "fe80::1%eth0",
        "host.example",
        "",
        "any",
        "10.0.0.0/255.0.255.0",
        "1.2.3.4:80",
    ),
    "--label": ("team", "=x", "", "two words=x", "team=a\nb", "team\r=x", "tëam=x", "team=é", f"{'k' * 257}=x", f"k={'v' * 257}"),
    "--expires": ("", "0", "0s", "soon", "90D", "1h30", "1.5h", " 1h", "1month", "36601d", "never", "9" * 30, "9" * 5000, "\u0661d"),
}


@pytest.mark.parametrize(
    ("flag", "value"), [(flag, value) for flag, values in BAD_VALUES.items() for value in values], ids=lambda text: repr(text[:24])
)
def test_a_value_that_no_header_or_clock_can_carry_is_wrong_usage(desk: Desk, flag: str, value: str) -> None:
    words = {"--client": "acme", "--tier": "free", flag: value}
    said = desk.run("create", *(f"{name}={word}" for name, word in words.items()))
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("slm-authz: ")
    assert len(said.err.splitlines()) == 1
    assert "\r" not in said.err
    assert desk.ids() == []


@pytest.mark.parametrize(
    "words",
    [
        ["--tier", "free"],
        ["--client"],
        ["--client", "acme", "--expires", "-1d"],
        ["--client", "acme", "--env", "prod"],
        ["--client", "acme", "--allow-ip"],
        ["--client", "acme", "--label"],
        ["--client", "acme", "--colour", "red"],
        ["--client", "acme", "--output", "yaml"],
        ["--client", "acme", "--label", "team=a", "team=b"],
        ["--client", "acme", "--label", "team=a", "--label", "team=b"],
        ["--client", "acme", "--allow-ip", *(f"10.0.{n}.0/24" for n in range(65))],
        ["--client", "acme", "--label", *(f"k{n}=v" for n in range(65))],
        ["--client", "acme", "--models", ",".join(f"*{'*' * n}" for n in range(65))],
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_words_that_make_no_command_are_wrong_usage(desk: Desk, words: list[str]) -> None:
    said = desk.run("create", *words, *([] if "--tier" in words else ["--tier", "free"]))
    assert (said.code, said.out) == (2, "")
    assert "Traceback" not in said.err
    assert desk.ids() == []


@pytest.mark.parametrize("client", ["x" * 256, "!", "~", "a,b;c=d", "user@example.com", "-"])
def test_256_visible_characters_are_a_client(desk: Desk, client: str) -> None:
    assert desk.json("create", f"--client={client}", "--tier", "free")["client"] == client


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["127.0.0.1"], ["127.0.0.1/32"]),
        (["10.1.2.3/8", "10.0.0.0/8"], ["10.0.0.0/8"]),
        (["::1", "2001:DB8:0::/32"], ["::1/128", "2001:db8::/32"]),
        (["::ffff:10.0.0.1", "::ffff:192.0.2.0/120"], ["10.0.0.1/32", "192.0.2.0/24"]),
        (["0.0.0.0/0", "::/0"], ["0.0.0.0/0", "::/0"]),
    ],
)
def test_addresses_are_kept_as_networks_in_one_spelling(desk: Desk, given: list[str], kept: list[str]) -> None:
    assert desk.make("acme", "--allow-ip", *given)["allow_ip"] == kept


@pytest.mark.parametrize(
    ("span", "until"),
    [
        ("1s", "2023-11-15T12:00:01.000Z"),
        ("90", "2023-11-15T12:01:30.000Z"),
        ("1h30m", "2023-11-15T13:30:00.000Z"),
        ("2w", "2023-11-29T12:00:00.000Z"),
        ("36600d", "2124-01-30T12:00:00.000Z"),
    ],
)
def test_an_expiry_is_counted_from_now(desk: Desk, span: str, until: str) -> None:
    assert desk.make("acme", "--expires", span)["expires_at"] == until


# -- list and show


@pytest.fixture
def several(desk: Desk) -> dict[str, str]:
    """Keys of three clients in every state, by what is particular about them."""
    made = {
        "plain": desk.make()["id"],
        "corp": desk.make("acme", "--tenant", "corp")["id"],
        "pro": desk.make("globex", tier="pro")["id"],
        "short": desk.make("acme", "--expires", "1h")["id"],
        "off": desk.make("globex", "--tenant", "corp")["id"],
        "gone": desk.make("initech")["id"],
    }
    desk.run("disable", made["off"])
    desk.run("revoke", made["gone"])
    desk.now += DAY
    return made


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], {"plain", "corp", "pro", "short", "off", "gone"}),
        (["--client", "acme"], {"plain", "corp", "short"}),
        (["--client", "acm"], set()),
        (["--tenant", "corp"], {"corp", "off"}),
        (["--tier", "pro"], {"pro"}),
        (["--client", "acme", "--tenant", "corp"], {"corp"}),
        (["--client", "acme", "--tier", "pro"], set()),
        (["--state", "active"], {"plain", "corp", "pro"}),
        (["--state", "expired"], {"short"}),
        (["--state", "disabled"], {"off"}),
        (["--state", "revoked"], {"gone"}),
        (["--state", "active", "--client", "acme", "--tier", "free"], {"plain", "corp"}),
    ],
    ids=" ".join,
)
def test_list_takes_filters_that_are_anded(desk: Desk, several: dict[str, str], words: list[str], names: set[str]) -> None:
    answer = desk.json("list", *words)
    assert list(answer) == ["data", "next_cursor"]
    assert answer["next_cursor"] is None
    assert [key["id"] for key in answer["data"]] == sorted(several[name] for name in names)
    assert all(list(key) == MEMBERS for key in answer["data"])


def test_a_list_of_a_tier_that_is_not_configured_is_a_no_unless_keys_still_name_it(desk: Desk, several: dict[str, str]) -> None:
    said = desk.run("list", "--tier", "gold")
    assert (said.code, said.out) == (1, "")
    assert "free, pro" in said.err
    desk.config.write_text(ONE_TIER)
    assert desk.ids("--tier", "pro") == [several["pro"]]


def test_an_element_of_the_list_is_what_show_shows(desk: Desk, several: dict[str, str]) -> None:
    listed = {key["id"]: key for key in desk.json("list")["data"]}
    assert {key_id: desk.json("show", key_id) for key_id in several.values()} == listed


def test_the_list_for_people_is_aligned_and_plain(desk: Desk, several: dict[str, str]) -> None:
    said = desk.run("list")
    head, *rows = said.out.splitlines()
    assert (said.code, said.err) == (0, "")
    assert head.split() == ["ID", "CLIENT", "TENANT", "TIER", "NAME", "ENV", "STATE", "CREATED_AT", "EXPIRES_AT", "LAST_USED_AT"]
    assert [row[:12] for row in rows] == sorted(several.values())
    assert {row[head.index("STATE") :].split()[0] for row in rows} == {"active", "disabled", "expired", "revoked"}
    assert "\x1b" not in said.out


def test_a_store_without_keys_lists_none(desk: Desk) -> None:
    assert desk.json("list") == {"data": [], "next_cursor": None}
    assert desk.run("list").out.startswith("ID")


def test_show_for_people_names_every_member(desk: Desk) -> None:
    made = desk.make("acme", "--label", "team=search", "--scopes", "a,b")
    said = desk.run("show", made["id"])
    shown = dict(line.split(maxsplit=1) for line in said.out.splitlines()[1:])
    assert said.code == 0
    assert list(shown) == MEMBERS
    assert (shown["id"], shown["labels"], shown["scopes"], shown["tenant"]) == (made["id"], "team=search", "a,b", "-")


@pytest.mark.parametrize(("after", "state"), [(0, "active"), (3_599_999, "active"), (3_600_000, "expired"), (DAY, "expired")], ids=str)
def test_a_key_expires_at_the_millisecond_that_it_names(desk: Desk, after: int, state: str) -> None:
    made = desk.make("acme", "--expires", "1h")
    desk.now += after
    assert desk.json("show", made["id"])["state"] == state


# -- update


@pytest.fixture
def full(desk: Desk) -> dict[str, Any]:
    """A key that has something of everything."""
    words = ("--name", "N", "--expires", "1d", "--models", "phi4", "--scopes", "a", "--allow-ip", "10.0.0.1", "--label", "k=v")
    return desk.make("acme", *words)


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["--tier", "pro"], {"tier": "pro"}),
        (["--name", "a new name"], {"name": "a new name"}),
        (["--name", ""], {"name": None}),
        (["--expires", "2d"], {"expires_at": "2023-11-17T13:00:00.000Z"}),
        (["--expires", "never"], {"expires_at": None}),
        (["--models", "qwen*,phi4"], {"models": ["qwen*", "phi4"]}),
        (["--models", "*"], {"models": ["*"]}),
        (["--scopes", "b,c"], {"scopes": ["b", "c"]}),
        (["--scopes", ""], {"scopes": []}),
        (["--allow-ip", "192.0.2.0/24", "::1"], {"allow_ip": ["192.0.2.0/24", "::1/128"]}),
        (["--allow-ip", "any"], {"allow_ip": []}),
        (["--label", "x=1", "--label", "y=2"], {"labels": {"x": "1", "y": "2"}}),
        (["--label", ""], {"labels": {}}),
        (["--tier", "pro", "--scopes", "", "--name", "both"], {"tier": "pro", "scopes": [], "name": "both"}),
    ],
    ids=" ".join,
)
def test_update_changes_what_it_names_and_nothing_else(desk: Desk, full: dict[str, Any], words: list[str], changed: dict[str, Any]) -> None:
    desk.now += 3_600_000
    assert desk.json("update", full["id"], *words) == without_key(full) | changed == desk.json("show", full["id"])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["--tier", "gold"], 1),
        (["--models", "gpt-9"], 1),
        (["--models", ""], 2),
        (["--tier", "pro", "--models", "gpt-9"], 1),
        (["--tier", "pro", "--expires", "soon"], 2),
        (["--tier", "pro", "--allow-ip", "any", "10.0.0.1"], 2),
        (["--tier", "pro", "--label", "x"], 2),
        (["--tier", "pro", "--scopes", "two words"], 2),
        (["--tier", "pro", "--name", "a\nb"], 2),
        (["--client", "globex"], 2),
        (["--tenant", "corp"], 2),
        (["--env", "test"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_an_update_that_is_refused_changes_nothing_at_all(desk: Desk, full: dict[str, Any], words: list[str], code: int) -> None:
    said = desk.run("update", full["id"], *words)
    assert (said.code, said.out) == (code, "")
    assert desk.json("show", full["id"]) == without_key(full)


# -- disable, enable, revoke


def test_disable_and_enable_answer_with_the_key_as_it_is_now(desk: Desk) -> None:
    made = without_key(desk.make())
    assert desk.json("disable", made["id"]) == made | {"state": "disabled"} == desk.json("disable", made["id"])
    assert desk.states() == {made["id"]: "disabled"}
    assert desk.json("enable", made["id"]) == made == desk.json("enable", made["id"])
    assert desk.states() == {made["id"]: "active"}


def test_a_revoked_key_cannot_be_enabled_and_the_fix_is_a_new_one(desk: Desk) -> None:
    made = desk.make()
    desk.run("revoke", made["id"])
    said = desk.run("enable", made["id"])
    assert (said.code, said.out) == (1, "")
    assert "Create a new one" in said.err
    assert desk.states() == {made["id"]: "revoked"}
    assert desk.json("disable", made["id"])["state"] == "revoked"


def test_revoke_takes_ids_and_answers_with_what_it_revoked(desk: Desk) -> None:
    first, second, third = (desk.make()["id"] for _ in range(3))
    answer = desk.json("revoke", first, second, first)
    assert list(answer) == ["data", "next_cursor"]
    assert [(key["id"], key["state"]) for key in answer["data"]] == [(first, "revoked"), (second, "revoked")]
    assert all(list(key) == MEMBERS for key in answer["data"])
    assert desk.states() == {first: "revoked", second: "revoked", third: "active"}


def test_revoking_again_revokes_nothing_and_is_no_error(desk: Desk) -> None:
    made = desk.make()
    desk.run("revoke", made["id"])
    assert desk.json("revoke", made["id"]) == {"data": [], "next_cursor": None}
    said = desk.run("revoke", "--client", "acme")
    assert (said.code, said.out) == (0, "0 keys revoked\n")


def test_one_unknown_id_and_no_key_is_revoked(desk: Desk) -> None:
    made = desk.make()
    said = desk.run("revoke", made["id"], "nobody000000")
    assert (said.code, said.out) == (1, "")
    assert "'nobody000000'" in said.err
    assert desk.states() == {made["id"]: "active"}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--client", "acme"], {"plain", "corp", "short"}),
        (["--client", "acme", "--tenant", "corp"], {"corp"}),
        (["--client", "globex"], {"pro", "off"}),
    ],
    ids=" ".join,
)
def test_all_keys_of_a_client_go_at_once_whatever_their_state(
    desk: Desk, several: dict[str, str], words: list[str], names: set[str]
) -> None:
    before = desk.states()
    due = {several[name] for name in names}
    dry = desk.json("revoke", *words, "--dry-run")
    assert {key["id"]: key["state"] for key in dry["data"]} == {key_id: before[key_id] for key_id in due}
    assert desk.states() == before
    assert {key["id"]: key["state"] for key in desk.json("revoke", *words)["data"]} == dict.fromkeys(due, "revoked")
    assert desk.states() == before | dict.fromkeys(due, "revoked")


def test_a_dry_run_tells_people_what_would_be(desk: Desk) -> None:
    first, second = desk.make()["id"], desk.make()["id"]
    said = desk.run("revoke", first, "--dry-run")
    assert said.out.startswith("1 key would be revoked\n")
    assert first in said.out
    assert desk.run("revoke", "--client", "acme", "--dry-run").out.startswith("2 keys would be revoked\n")
    assert desk.states() == {first: "active", second: "active"}
    assert desk.run("revoke", "--client", "acme").out.startswith("2 keys revoked\n")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["--dry-run"], 2),
        (["--tenant", "corp"], 2),
        (["ID", "--tenant", "corp"], 2),
        (["ID", "--client", "acme"], 2),
        (["--client", ""], 2),
        (["--client", "nobody"], 1),
        (["--client", "acme", "--tenant", "nobody"], 1),
        (["--client", "acme", "--tenant", ""], 1),
        (["--client", "nobody", "--dry-run"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_revocation_that_means_nothing_exact_revokes_nothing(desk: Desk, words: list[str], code: int) -> None:
    made = desk.make("acme", "--tenant", "corp")
    said = desk.run("revoke", *(made["id"] if word == "ID" else word for word in words))
    assert (said.code, said.out) == (code, "")
    assert len(said.err.splitlines()) == 1
    assert desk.states() == {made["id"]: "active"}


# -- verify


def _leave(_: Desk, __: str) -> None:
    """The key stays as it was made."""


def _change(word: str) -> Callable[[Desk, str], None]:
    def act(desk: Desk, key_id: str) -> None:
        assert desk.run(word, key_id).code == 0

    return act


def _pass_a_day(desk: Desk, _: str) -> None:
    desk.now += DAY


@pytest.mark.parametrize(
    ("act", "state"),
    [
        (_leave, "active"),
        (_change("disable"), "disabled"),
        (_change("revoke"), "revoked"),
        (_pass_a_day, "expired"),
    ],
    ids=["active", "disabled", "revoked", "expired"],
)
def test_verify_tells_whose_a_key_is_and_answers_yes_for_an_active_one_alone(
    desk: Desk, typed: Callable[[bytes], None], act: Callable[[Desk, str], None], state: str
) -> None:
    made = desk.make("acme", "--expires", "1d", "--label", "team=search")
    act(desk, made["id"])
    valid = state == "active"
    typed(made["key"].encode() + b"\n")
    answer = desk.json("verify", code=0 if valid else 1)
    assert list(answer) == ["valid", *MEMBERS]
    assert answer == {"valid": valid, **without_key(made), "state": state}
    typed(made["key"].encode() + b"\n")
    said = desk.run("verify", "-")
    assert (said.code, said.err) == (0 if valid else 1, "")
    assert said.out == f"{'valid' if valid else 'not valid'}: {state}, id {made['id']}, client acme, tier free\n"


def test_a_key_that_is_enabled_again_is_valid_again(desk: Desk, typed: Callable[[bytes], None]) -> None:
    made = desk.make()
    for word, code in (("disable", 1), ("enable", 0)):
        desk.run(word, made["id"])
        typed(made["key"].encode())
        assert desk.run("verify").code == code


def _mistyped(key: str) -> str:
    return key[:-1] + other(key[-1])


def _another_secret(key: str) -> str:
    body = key[: -6 - 1] + other(key[-7])
    return body + key_format.checksum(body)


@pytest.mark.parametrize(
    "text",
    [
        _mistyped,
        _another_secret,
        lambda key: key[:-1],
        lambda key: key + "0",
        lambda key: key.swapcase(),
        lambda key: key.replace("slm_live", "slm_test"),
        lambda key: f"Bearer {key}",
        lambda key: f"\n{key}",
        lambda key: key[:30] + " " + key[30:],
        lambda key: key[9:21],
        lambda _: "slm_test_0123456789AB_0123456789ABCDEFGHIJKLMNOPQRSTUV3q5Muq",
        lambda _: "",
        lambda _: "slm_",
        lambda _: "\x00",
        lambda _: "ключ",
        lambda _: "x" * 100_000,
    ],
    ids=[
        "mistyped", "another secret", "cut", "longer", "other case", "other env", "with a scheme", "an empty line first", "a blank inside",
        "its id", "the contract's example", "nothing", "prefix", "NUL", "not ASCII", "endless",
    ],
)  # fmt: skip
def test_verify_says_no_to_anything_else_with_every_member_null(
    desk: Desk, typed: Callable[[bytes], None], text: Callable[[str], str]
) -> None:
    made = desk.make()
    typed(text(made["key"]).encode() + b"\n")
    assert desk.json("verify", code=1) == {"valid": False, **dict.fromkeys(MEMBERS)}
    typed(text(made["key"]).encode() + b"\n")
    said = desk.run("verify")
    assert (said.code, said.out, said.err) == (1, "not valid: this is no key of this store\n", "")


def test_bytes_that_are_no_text_are_no_key(desk: Desk, typed: Callable[[bytes], None]) -> None:
    desk.make()
    typed(b"slm_live_\xff\xfe\n")
    assert desk.json("verify", code=1)["valid"] is False


@pytest.mark.parametrize("frame", ["{}", "{}\n", "{}\r\n", "  {}\t\n", "{}\nand more\n"], ids=repr)
def test_the_first_line_of_standard_input_is_the_key(desk: Desk, typed: Callable[[bytes], None], frame: str) -> None:
    made = desk.make()
    typed(frame.format(made["key"]).encode())
    assert desk.json("verify")["id"] == made["id"]


def test_a_key_of_another_store_is_not_ours(desk: Desk, typed: Callable[[bytes], None]) -> None:
    elsewhere = desk.make()["key"]
    desk.config.write_text(CONFIG.replace("./data/", "./elsewhere/"))
    desk.make()
    typed(elsewhere.encode())
    assert desk.json("verify", code=1)["id"] is None


def test_on_a_terminal_the_key_is_asked_for_unseen(desk: Desk, typed: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch) -> None:
    made = desk.make()
    typed(b"")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", lambda _: f"{made['key']}\n")
    assert desk.json("verify")["id"] == made["id"]


def test_a_terminal_at_its_end_has_no_key(desk: Desk, typed: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(_: str) -> str:
        raise EOFError

    typed(b"")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", ended)
    assert desk.json("verify", code=1)["valid"] is False


def test_a_key_on_the_command_line_is_verified_and_advised_against(desk: Desk) -> None:
    made = desk.make()
    said = desk.run("verify", made["key"])
    assert said.code == 0
    assert "standard input" in said.err
    assert made["key"] not in said.out + said.err


# -- ids


@pytest.mark.parametrize("key_id", ["0123456789AB", "", "'; DROP TABLE keys; --", "a\nb\r", "\x1b[2J", "ключ"], ids=repr)
@pytest.mark.parametrize("action", BY_ID)
def test_an_unknown_id_is_a_no_that_says_where_the_known_ones_are(desk: Desk, action: str, key_id: str) -> None:
    made = desk.make()
    said = desk.run(action, *(key_id if word == "0123456789AB" else word for word in BY_ID[action]))
    assert (said.code, said.out) == (1, "")
    assert len(said.err.splitlines()) == 1
    assert "keys list" in said.err
    assert "\x1b" not in said.err
    assert desk.states() == {made["id"]: "active"}


@pytest.mark.parametrize(
    ("spoil", "known"),
    [
        (str, True),
        (_another_secret, True),
        (lambda key: f" {key}\n", True),
        (lambda key: f"Bearer {key}", True),
        (_mistyped, False),
        (lambda key: key[:-9], False),
    ],
    ids=["the key", "well-formed", "with blanks", "with its scheme", "mistyped", "cut"],
)
@pytest.mark.parametrize("action", BY_ID)
def test_a_key_in_place_of_its_id_is_never_repeated(desk: Desk, action: str, spoil: Callable[[str], str], known: bool) -> None:
    made = desk.make()
    word = spoil(made["key"])
    for output in ("table", "json"):
        said = desk.run(action, *(word if one == "0123456789AB" else one for one in BY_ID[action]), "--output", output)
        assert (said.code, said.out) == (1, "")
        assert made["key"].rpartition("_")[2][:12] not in said.err
        assert "That is a key, not an id." in said.err
        assert (f"Its id is {made['id']}" in said.err) == known
    assert desk.states() == {made["id"]: "active"}


# -- secrets


@pytest.fixture
def reader(desk: Desk) -> Iterator[sqlite3.Connection]:
    """Another process on the database: while it is there, nobody folds the write-ahead log away."""
    desk.make("warm")
    with closing(sqlite3.connect(desk.database, isolation_level=None)) as connection:
        connection.execute("SELECT count(*) FROM keys").fetchone()
        yield connection


@pytest.mark.usefixtures("reader")
def test_after_its_creation_a_secret_is_in_no_output_and_in_no_file(desk: Desk, typed: Callable[[bytes], None]) -> None:
    made = desk.make("acme", "--expires", "1d", "--label", "team=search")
    key_id, key = made["id"], made["key"]
    printed = []
    for output in ("table", "json"):
        for words in (
            ["list"],
            ["show", key_id],
            ["update", key_id, "--name", "N"],
            ["disable", key_id],
            ["verify"],
            ["enable", key_id],
            ["verify", "-"],
            ["verify", key],
            ["show", key],
            ["revoke", key_id, "--dry-run"],
            ["create", "--client", "another", "--tier", "free"],
            ["rotate", key_id, "--grace", "1h"],
        ):
            typed(key.encode())
            said = desk.run(*words, "--output", output)
            assert said.code == (1 if words in (["show", key], ["verify"]) else 0)
            printed.append(said.out + said.err)
    last = desk.run("revoke", key_id)
    printed.append(last.out + last.err)
    pepper = (desk.data / "pepper").read_bytes().strip()
    secret = key.rpartition("_")[2].encode()
    text = "".join(printed).encode()
    for part in (secret, secret[:16], secret[16:32], pepper, pepper[:16]):
        assert part not in text
    files = {file.name: file.read_bytes() for file in desk.data.iterdir() if file.name != "pepper"}
    assert len(files[f"{desk.database.name}-wal"]) > 4096
    for name, content in files.items():
        for part in (secret, secret[:16], secret[16:32], pepper, bytes.fromhex(pepper.decode())):
            assert part not in content, name


@pytest.mark.parametrize("action", [name for name in NEEDED if name not in ("create", "rotate")])
def test_only_the_answers_to_create_and_rotate_have_the_member_key(desk: Desk, typed: Callable[[bytes], None], action: str) -> None:
    made = desk.make()
    typed(made["key"].encode())
    answer = desk.json(action, *(made["id"] if word == "0123456789AB" else word for word in NEEDED[action]))
    assert "key" not in answer
    assert all("key" not in item for item in answer.get("data", ()))


def test_everything_beside_the_store_is_private(desk: Desk) -> None:
    desk.make()
    assert desk.data.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in desk.data.iterdir()}
    assert {"slm-authz.db", "pepper"} <= modes.keys()
    assert set(modes.values()) == {0o600}


# -- what is in the way


def _widen_directory(desk: Desk) -> str:
    desk.data.chmod(0o755)
    return f"chmod 700 {desk.data}"


def _widen_database(desk: Desk) -> str:
    desk.database.chmod(0o644)
    return f"chmod 600 {desk.database}"


def _widen_pepper(desk: Desk) -> str:
    (desk.data / "pepper").chmod(0o640)
    return f"chmod 600 {desk.data / 'pepper'}"


def _empty_pepper(desk: Desk) -> str:
    (desk.data / "pepper").write_text("\n")
    return "Restore it from a backup"


def _spoil_database(desk: Desk) -> str:
    desk.database.write_bytes(b"this is no database" * 100)
    return "Restore it from a backup"


def _newer_database(desk: Desk) -> str:
    with closing(sqlite3.connect(desk.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 99")
    return "Install that release again"


def _file_in_the_directorys_place(desk: Desk) -> str:
    desk.config.write_text(CONFIG.replace("./data/", "./slm-authz.yaml/"))
    return "cannot be used"


@pytest.mark.parametrize(
    "spoil",
    [
        _widen_directory,
        _widen_database,
        _widen_pepper,
        _empty_pepper,
        _spoil_database,
        _newer_database,
        _file_in_the_directorys_place,
    ],
    ids=lambda spoil: spoil.__name__.strip("_"),
)
def test_a_store_that_cannot_be_opened_is_a_dependency_with_a_fix(desk: Desk, spoil: Callable[[Desk], str]) -> None:
    desk.make()
    fix = spoil(desk)
    for words in (["list"], ["create", "--client", "acme", "--tier", "free", "--output", "json"]):
        said = desk.run(*words)
        assert (said.code, said.out) == (3, "")
        assert said.err.startswith("slm-authz: ")
        assert len(said.err.splitlines()) == 1
        assert fix in said.err


def test_a_store_that_is_kept_locked_is_a_dependency_for_who_writes_alone(
    desk: Desk, reader: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_MS", 20)
    before = desk.ids()
    reader.execute("BEGIN IMMEDIATE")
    said = desk.run("create", "--client", "late", "--tier", "free")
    assert (said.code, said.out) == (3, "")
    assert "retry" in said.err
    assert desk.ids() == before
    reader.execute("ROLLBACK")
    desk.make("late")


def test_a_wrong_pepper_is_told_before_anything_is_done(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.make()
    monkeypatch.setenv("SLM_AUTHZ_PEPPER", "another-pepper-of-32-characters!")
    said = desk.run("create", "--client", "acme", "--tier", "free")
    assert (said.code, said.out) == (1, "")
    assert "SLM_AUTHZ_PEPPER" in said.err
    assert "another-pepper" not in said.err


# -- rotate


def test_rotate_answers_with_the_key_and_its_next_version(desk: Desk, typed: Callable[[bytes], None]) -> None:
    made = desk.make("acme", "--tenant", "corp", "--name", "CI", "--label", "a=b", "--expires", "90d", "--env", "test")
    rotated = desk.json("rotate", made["id"])
    assert rotated == {**made, "version": 2, "key": rotated["key"]}
    assert rotated["key"] != made["key"]
    assert desk.json("show", made["id"]) == without_key(rotated)
    for key in (made["key"], rotated["key"]):
        typed(key.encode())
        assert desk.json("verify") == {"valid": True, **without_key(rotated)}


def test_the_old_secret_serves_a_day_unless_told_otherwise(desk: Desk, typed: Callable[[bytes], None]) -> None:
    made = desk.make()
    said = desk.run("rotate", made["id"])
    key, _, only, earlier = said.out.splitlines()
    assert key_format.parse(key) is not None
    assert "only time that the key is shown" in only
    assert earlier == "Earlier secrets serve on: version 1 until 2023-11-16T12:00:00.000Z."
    assert desk.run("show", made["id"]).out.splitlines()[-1] == earlier
    typed(made["key"].encode())
    about = f"id {made['id']}, client acme, tier free"
    assert desk.run("verify").out == f"valid: active, {about}; a secret from before a rotation, it ends 2023-11-16T12:00:00.000Z\n"
    desk.now += 86_400_000
    assert "Earlier" not in desk.run("show", made["id"]).out
    typed(made["key"].encode())
    assert desk.json("verify", code=1)["state"] == "expired"
    typed(made["key"].encode())
    assert desk.run("verify").out == f"not valid: a secret from before a rotation, whose time has ended; {about}\n"
    assert desk.states() == {made["id"]: "active"}


@pytest.mark.parametrize("grace", ["0s", "0"])
def test_no_grace_refuses_every_earlier_secret_at_once(desk: Desk, typed: Callable[[bytes], None], grace: str) -> None:
    made = desk.make()
    middle = desk.json("rotate", made["id"], "--grace", "30d")
    said = desk.run("rotate", made["id"], f"--grace={grace}")
    assert said.out.splitlines()[-1] == "Earlier secrets are refused from now on."
    for key, code in ((made["key"], 1), (middle["key"], 1), (said.out.splitlines()[0], 0)):
        typed(key.encode())
        assert desk.json("verify", code=code)["version"] == 3


@pytest.mark.parametrize("grace", ["", "-1s", "tomorrow", "101y", "1e3", "40000d", "٣d"])
def test_a_grace_that_is_none(desk: Desk, grace: str) -> None:
    made = desk.make()
    said = desk.run("rotate", made["id"], f"--grace={grace}")
    assert (said.code, said.out) == (2, "")
    assert "--grace" in said.err
    assert desk.json("show", made["id"])["version"] == 1


def test_keys_that_get_no_new_secret(desk: Desk) -> None:
    revoked, brief = desk.make(), desk.make("brief", "--expires", "1s")
    desk.run("revoke", revoked["id"])
    desk.now += 1000
    for key_id, word in (
        (revoked["id"], "Create a new one"),
        (brief["id"], f"keys update {brief['id']} --expires"),
        ("nobody000000", "list"),
    ):
        said = desk.run("rotate", key_id)
        assert (said.code, said.out) == (1, "")
        assert word in said.err


def test_what_was_stopped_does_not_come_back_unasked(desk: Desk, typed: Callable[[bytes], None]) -> None:
    """Disable, rotate, enable: of a disabled key no earlier secret serves on, unless a grace is named; and then it is said."""
    made = desk.make()
    desk.run("disable", made["id"])
    said = desk.run("rotate", made["id"])
    assert said.code == 0
    assert said.out.splitlines()[-1] == "Earlier secrets are refused from now on."
    assert f"slm-authz keys enable {made['id']}" in said.err
    desk.run("enable", made["id"])
    for key, code in ((made["key"], 1), (said.out.splitlines()[0], 0)):
        typed(key.encode())
        assert desk.run("verify").code == code
    desk.run("disable", made["id"])
    earlier = "version 2 until 2023-11-15T13:00:00.000Z."
    assert (
        desk.run("rotate", made["id"], "--grace", "1h").out.splitlines()[-1]
        == f"Earlier secrets serve on, once the key is enabled: {earlier}"
    )
    assert desk.run("enable", made["id"]).out.splitlines()[-1] == f"Earlier secrets serve on: {earlier}"


def test_no_earlier_secret_is_said_to_outlive_its_key(desk: Desk, typed: Callable[[bytes], None]) -> None:
    made = desk.make("acme", "--expires", "1h")
    end = "2023-11-15T13:00:00.000Z"
    assert desk.run("rotate", made["id"]).out.splitlines()[-1] == f"Earlier secrets serve on: version 1 until {end}."
    typed(made["key"].encode())
    assert desk.run("verify").out.endswith(f"it ends {end}\n")
    desk.run("revoke", made["id"])
    assert "Earlier" not in desk.run("show", made["id"]).out
    typed(made["key"].encode())
    assert desk.run("verify").out.startswith("not valid: revoked, ")


@pytest.mark.parametrize("action", ["rotate", "update", "verify"])
def test_a_key_whose_tier_is_gone_is_said_to_be_useless(desk: Desk, typed: Callable[[bytes], None], action: str) -> None:
    made = desk.make()
    desk.config.write_text(ONE_TIER)
    typed(made["key"].encode())
    said = desk.run(action, *([] if action == "verify" else [made["id"]]), *(["--name", "N"] if action == "update" else []))
    assert said.code == 0
    assert "tier free is not configured" in said.err
    assert "keys update ID --tier" in said.err


@pytest.mark.parametrize("action", ["create", "rotate"])
def test_ctrl_c_after_the_commit_waits_until_the_secret_is_shown(desk: Desk, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    made = desk.make()
    commit = getattr(Lifecycle, action)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        done = commit(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGINT)
        return done

    monkeypatch.setattr(Lifecycle, action, interrupted)
    said = desk.run(action, *(NEEDED["create"] if action == "create" else [made["id"]]))
    assert said.code == 130, "and then it ends what is left to do"
    assert key_format.parse(said.out.splitlines()[0]) is not None
    assert "only time that the key is shown" in said.out


# -- a store that is not there


@pytest.mark.parametrize("action", sorted(NEEDED.keys() - {"create"}))
def test_who_makes_no_key_makes_no_store(desk: Desk, typed: Callable[[bytes], None], action: str) -> None:
    typed(b"")
    assert desk.run(action, *NEEDED[action]).code in (0, 1)
    assert not desk.data.exists()


@pytest.mark.parametrize("left", ["slm-authz.db-wal", "slm-authz.db-shm", "slm-authz.counters.db", "slm-authz.journal.0000000000000001"])
@pytest.mark.parametrize("action", ["create", "list"])
def test_a_store_that_has_gone_is_not_begun_anew(desk: Desk, action: str, left: str) -> None:
    key_id = desk.make()["id"]
    away = desk.database.rename(desk.config.with_name("away.db"))
    (desk.data / left).touch(0o600)
    said = desk.run(action, *NEEDED[action])
    assert (said.code, said.out) == (3, "")
    for word in (str(desk.database), left, "Put it back"):
        assert word in said.err
    assert not desk.database.exists()
    away.rename(desk.database)
    assert desk.ids() == [key_id]


def test_a_lost_pepper_is_told_and_not_replaced_by_a_new_one(desk: Desk) -> None:
    key_id = desk.make()["id"]
    file = desk.data / "pepper"
    aside = file.rename(file.with_name("aside"))
    said = desk.run("create", "--client", "acme", "--tier", "free")
    assert (said.code, said.out) == (1, "")
    assert str(file) in said.err
    assert "restore" in said.err
    assert not file.exists()
    aside.rename(file)
    assert desk.ids() == [key_id]


@pytest.mark.parametrize("action", NEEDED)
def test_no_configuration_file_is_wrong_usage_and_an_invalid_one_a_no(desk: Desk, action: str) -> None:
    desk.config.unlink()
    said = desk.run(action, *NEEDED[action])
    assert (said.code, said.out) == (2, "")
    assert "-c FILE" in said.err
    desk.config.write_text(CONFIG + "wrkers: 1\n")
    said = desk.run(action, *NEEDED[action])
    assert (said.code, said.out) == (1, "")
    assert "line 6" in said.err
    assert "config check" in said.err
    assert not desk.data.exists()


# -- output and examples


@pytest.mark.parametrize("action", NEEDED)
def test_json_is_one_document_on_one_line(desk: Desk, typed: Callable[[bytes], None], action: str) -> None:
    made = desk.make("acme", "--name", 'a "name" \\ {}', "--label", "quote='\"")
    desk.make("globex")
    typed(made["key"].encode())
    said = desk.run(action, *(made["id"] if word == "0123456789AB" else word for word in NEEDED[action]), "--output", "json")
    assert (said.code, said.err) == (0, "")
    assert said.out.endswith("\n")
    assert said.out.count("\n") == 1
    assert isinstance(json.loads(said.out), dict)


def test_where_the_answer_is_no_json_has_no_half_document(desk: Desk) -> None:
    for words in (["show", "nobody000000"], ["create", "--client", "a b", "--tier", "free"], ["revoke", "--client", "nobody"]):
        said = desk.run(*words, "--output", "json")
        assert said.code in (1, 2)
        assert said.out == ""


def _examples() -> list[list[str]]:
    lines = [line.strip() for line in keys.EXAMPLES.splitlines() if line.strip()]
    lines.extend(f"slm-authz keys {name} {example}" for name, (_, example) in keys._ACTIONS.items())
    return [shlex.split(line.partition(" < ")[0])[2:] for line in lines]


@pytest.mark.parametrize("words", _examples(), ids=" ".join)
def test_the_examples_of_the_help_are_right_usage(desk: Desk, typed: Callable[[bytes], None], words: list[str]) -> None:
    typed(b"")
    assert desk.run(*words).code in (0, 1)


def test_keys_without_an_action_is_wrong_usage(desk: Desk) -> None:
    assert main(["keys"]) == 2
    assert desk.run("import", "file").code == 2

"""`slm-authz up` without an Envoy: which file it takes, what it prints, and how it ends. With a real one: tests/e2e/test_up.py."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slm_authz.cli.main import main
from slm_authz.errors import DependencyError
from slm_authz.local import gateway
from slm_authz.settings.load import EXAMPLE, load

CONFIG = "version: 1\nidentity: [{api_key: {}}]\nmodels: {m: {}}\ntiers: {free: {models: [m]}}\n"
KEY = "slm_test_0123456789AB_0123456789ABCDEFGHIJKLMNOPQRSTUV3q5Muq"


class Pretend:
    """A gateway that runs nothing. `interrupted` is where Ctrl-C comes."""

    plans: list[gateway.Plan]
    commands: list[str]
    interrupted: str

    def __init__(self, plan: gateway.Plan, *_: Any) -> None:
        self.plans.append(plan)
        self.config = plan.config or Path("built-in.yaml")
        self.envoy = SimpleNamespace(version="1.40.0")
        self.stack = SimpleNamespace(dead=lambda: None)

    def _at(self, moment: str) -> None:
        if self.interrupted == moment:
            raise KeyboardInterrupt

    def start(self) -> None:
        self._at("start")
        self.settings = load(self.plans[-1].config or EXAMPLE, {}).settings

    def cli(self, *words: str) -> dict[str, Any]:
        self.commands.append(words[1])
        self._at(words[1])
        return {"id": "0123456789AB", "client": "me", "tier": "free", "key": KEY}

    def stop(self) -> None:
        self.commands.append("stop")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Pretend]]:
    """`up` in an empty directory, over a gateway that runs nothing until somebody interrupts it."""

    class One(Pretend):
        """A class of this test's own: it is what `up` makes, and what remembers."""

    def sleep(_: float) -> None:
        raise KeyboardInterrupt

    One.plans, One.commands, One.interrupted = [], [], "later"
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(gateway, "Gateway", One)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.delenv("SLM_AUTHZ_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    yield One
    for number, handler in before.items():
        signal.signal(number, handler)


# -- which file


def test_up_takes_the_flag_before_the_environment_before_the_directory_before_its_own(
    pretend: type[Pretend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["up"]) == 0
    for name in ("slm-authz.yaml", "named.yaml", "given.yaml"):
        (tmp_path / name).write_text(CONFIG)
    assert main(["up"]) == 0
    monkeypatch.setenv("SLM_AUTHZ_CONFIG", "named.yaml")
    assert main(["up"]) == 0
    assert main(["up", "-c", "given.yaml"]) == 0
    assert [str(plan.config) for plan in pretend.plans] == ["None", "slm-authz.yaml", "named.yaml", "given.yaml"]


def test_a_file_that_is_named_and_not_there_is_wrong_usage(pretend: type[Pretend], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "-c", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err
    assert pretend.commands == ["stop"]


def test_the_help_says_which_file_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["up", "--help"])
    assert "Without -c, SLM_AUTHZ_CONFIG and ./slm-authz.yaml a built-in configuration is used" in capsys.readouterr().out


# -- how it ends


@pytest.mark.parametrize(
    ("moment", "code", "commands"),
    [
        ("start", 130, ["stop"]),
        ("create", 130, ["create", "stop"]),
        ("later", 0, ["create", "revoke", "stop"]),
    ],
)
def test_an_interrupt_is_the_way_to_end_it_only_when_it_was_ready(
    pretend: type[Pretend], tmp_path: Path, moment: str, code: int, commands: list[str]
) -> None:
    (tmp_path / "slm-authz.yaml").write_text(CONFIG)
    pretend.interrupted = moment
    assert main(["up"]) == code
    assert pretend.commands == commands


def test_the_key_of_a_temporary_store_goes_with_it(pretend: type[Pretend]) -> None:
    assert main(["up"]) == 0
    assert pretend.commands == ["create", "stop"]


def test_where_nobody_can_read_the_key_it_does_not_run(
    pretend: type[Pretend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    (tmp_path / "slm-authz.yaml").write_text(CONFIG)
    monkeypatch.setattr(sys, "stdout", Gone())
    assert main(["up"]) == 3
    assert "Nobody can read the key" in capsys.readouterr().err
    assert pretend.commands == ["create", "revoke", "stop"]


def test_a_part_that_ends_is_told(pretend: type[Pretend], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    dead = SimpleNamespace(ended=lambda: DependencyError("envoy ended with exit code 1."))
    real: Callable[..., None] = pretend.__init__

    def init(self: Any, *words: Any) -> None:
        real(self, *words)
        self.stack = SimpleNamespace(dead=lambda: dead)

    monkeypatch.setattr(pretend, "__init__", init)
    assert main(["up"]) == 3
    assert "envoy ended with exit code 1." in capsys.readouterr().err


# -- what it prints


@pytest.mark.parametrize(
    ("listen", "bound", "url", "outside"),
    [
        ("127.0.0.1:10000", "127.0.0.1:10000", "http://127.0.0.1:10000", False),
        ("localhost:10000", "127.0.0.1:10000", "http://127.0.0.1:10000", False),
        ("[::1]:10000", "[::1]:10000", "http://[::1]:10000", False),
        ("0.0.0.0:10000", "0.0.0.0:10000", "http://127.0.0.1:10000", True),
        ("[::]:10000", "[::]:10000", "http://[::1]:10000", True),
        ("192.0.2.1:10000", "192.0.2.1:10000", "http://192.0.2.1:10000", True),
    ],
)
def test_the_url_leads_to_the_gateway_and_who_else_can_reach_it_is_said(
    pretend: type[Pretend], capsys: pytest.CaptureFixture[str], listen: str, bound: str, url: str, outside: bool
) -> None:
    assert main(["up", "--listen", listen, "--output", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["url"] == url
    assert pretend.plans[0].listen == bound
    assert ("can be reached from outside this machine" in err) == outside
    assert main(["up", "--listen", listen]) == 0
    assert f"curl {url}/v1/" in capsys.readouterr().out


@pytest.mark.parametrize("listen", ["foo", "unix:./s.sock", "models.example.com:1", "127.0.0.1"])
def test_where_it_cannot_listen_is_wrong_usage_that_recommends_what_works(
    pretend: type[Pretend], capsys: pytest.CaptureFixture[str], listen: str
) -> None:
    assert main(["up", "--listen", listen]) == 2
    err = capsys.readouterr().err
    assert "Write it like 127.0.0.1:10000" in err
    assert "like unix:" not in err
    assert pretend.plans == []


def test_what_to_run_next_can_be_typed_as_it_stands(
    pretend: type[Pretend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "bin" / "slm-authz"
    script.parent.mkdir()
    script.write_text("")
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "my file.yaml").write_text(CONFIG)
    assert main(["up", "-c", "my file.yaml"]) == 0
    out = capsys.readouterr().out
    assert "\nbin/slm-authz usage -c 'my file.yaml'\nbin/slm-authz audit tail -c 'my file.yaml'\n" in out
    assert pretend.commands[0] == "create"

"""The command line as a whole: help that is light and true, exit codes, colour, pipes, and which configuration is meant.

`main` is called in this process; a real one is started only for what a process alone has: its modules, a terminal, a pipe, a signal.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

import slm_authz
from slm_authz.cli import main as command_line
from slm_authz.cli.main import COMMANDS, main
from slm_authz.errors import (
    ConfigError,
    DependencyError,
    EnvoyMissing,
    NotFound,
    PortTaken,
    SlmAuthzError,
    StoreError,
    UsageError,
)
from slm_authz.store.keys import SqliteKeyStore

ROOT: Final = Path(slm_authz.__file__).parent
CONFIG: Final = """\
version: 1
listen: {grpc: "127.0.0.1:9001", admin: "127.0.0.1:0", health: "127.0.0.1:0"}
identity: [{api_key: {}}]
models: {m: {}}
tiers: {free: {models: [m]}}
store: {url: "sqlite:///./data/slm-authz.db"}
audit: {sinks: [{file: ./audit}]}
"""
HEAVY: Final = [
    "grpc",
    "google",
    "envoy",
    "redis",
    "openai",
    "pydantic",
    "opentelemetry",
    "starlette",
    "uvicorn",
    "sqlite3",
    "yaml",
    "msgspec",
]


def module_of(name: str) -> Any:
    return importlib.import_module(COMMANDS[name][0])


def actions_of(name: str) -> dict[str, argparse.ArgumentParser]:
    """The sub-commands of a command, by name."""
    top = argparse.ArgumentParser()
    module_of(name).add_arguments(top)
    found: dict[str, argparse.ArgumentParser] = {}
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(action.choices)
    return found


PAGES: Final = [[], *([name] for name in COMMANDS), *([name, action] for name in COMMANDS for action in actions_of(name))]
"""Every page of help, as the words before `--help`."""


def process(*words: str, env: Mapping[str, str | None] | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    """`slm-authz WORDS` in a process of its own; a variable that is None is taken out of the environment."""
    variables = {"NO_COLOR": None, "PYTHONUNBUFFERED": None, "TERM": "xterm", "SLM_AUTHZ_CONFIG": None, **(env or {})}
    environment = {name: value for name, value in {**os.environ, **variables}.items() if value is not None}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run([sys.executable, "-m", "slm_authz", *words], env=environment, text=True, check=False, timeout=60, **streams)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good configuration that nothing in the environment speaks against."""
    for name in ("SLM_AUTHZ_CONFIG", "SLM_AUTHZ_PEPPER", "SLM_AUTHZ_PEPPER_FILE", "SLM_AUTHZ_ADMIN_TOKEN", "SLM_AUTHZ_ADMIN_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "slm-authz.yaml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def signals() -> Iterator[None]:
    """Handlers of this process, given back afterwards."""
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A configuration with an error, which is coloured on a terminal."""
    file = tmp_path / "bad.yaml"
    file.write_text(CONFIG + "wrkers: 1\n")
    return file


# -- help


@pytest.fixture(scope="module")
def helped() -> dict[str, dict[str, Any]]:
    """What each page of help prints, how it ends, and which heavy modules it was the first to load; all in one fresh process."""
    code = f"""
import contextlib, io, json, sys
from slm_authz.cli.main import main
heavy, seen, pages = set({HEAVY!r}), set(), {{}}
for words in {PAGES!r}:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            code = main([*words, "--help"])
        except SystemExit as end:
            code = end.code
    loaded = sorted((heavy & set(sys.modules)) - seen)
    seen.update(loaded)
    pages[" ".join(words)] = {{"code": code, "out": out.getvalue(), "loaded": loaded}}
print(json.dumps(pages))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    pages: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return pages


@pytest.mark.parametrize("words", PAGES, ids=lambda words: " ".join(words) or "overview")
def test_help_answers_without_loading_anything_heavy_and_carries_an_example(helped: dict[str, dict[str, Any]], words: list[str]) -> None:
    page = helped[" ".join(words)]
    assert page["code"] in (0, None)
    assert page["loaded"] == []
    example = re.search(r"^examples?:\n((?:  .*\n)+)", page["out"], re.MULTILINE)
    assert example is not None
    assert " ".join(["slm-authz", *words]) in example[1]
    assert "\x1b" not in page["out"]


@pytest.mark.parametrize("words", [words for words in PAGES if words and words not in (["config"], ["keys"], ["audit"])], ids=" ".join)
def test_every_command_takes_a_configuration_and_an_output(helped: dict[str, dict[str, Any]], words: list[str]) -> None:
    out = helped[" ".join(words)]["out"]
    assert "-c FILE" in out
    assert "SLM_AUTHZ_CONFIG" in out
    assert "--output {table,json}" in out


def test_the_overview_names_every_command_with_its_purpose(helped: dict[str, dict[str, Any]]) -> None:
    lines = helped[""]["out"].splitlines()
    for name, (_, purpose) in COMMANDS.items():
        assert any(line.split(maxsplit=1) == [name, purpose] for line in lines)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_asked_for_in_either_spelling(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    assert capsys.readouterr().out.startswith("usage: slm-authz COMMAND")


def examples_in(text: str) -> list[list[str]]:
    """The command lines of an epilog: without what a shell takes away, and without what is said beside them."""
    found = []
    for line in text.splitlines():
        if "slm-authz " not in line or not line.startswith("  "):
            continue
        words = shlex.split(re.split(r"\s{2,}", line.strip())[0])
        words = words[words.index("slm-authz") + 1 :]
        found.append(words[: next((at for at, word in enumerate(words) if word in ("<", ">", "|")), len(words))])
    return found


def epilogs() -> list[str]:
    """Every text that shows examples."""
    texts = [command_line._EPILOG]
    for name in COMMANDS:
        texts.append(module_of(name).EXAMPLES)
        texts.extend(action.epilog or "" for action in actions_of(name).values())
    return texts


def all_examples() -> list[list[str]]:
    return [words for text in epilogs() for words in examples_in(text)]


@pytest.mark.parametrize("words", all_examples(), ids=" ".join)
def test_every_example_is_read_by_its_own_parser(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[argparse.Namespace] = []

    def run(args: argparse.Namespace) -> int:
        read.append(args)
        return 0

    monkeypatch.setattr(module_of(words[0]), "run", run)
    assert main(words) == 0
    assert len(read) == 1


def test_no_line_that_looks_like_an_example_is_passed_over() -> None:
    assert len(all_examples()) == sum("slm-authz " in line for text in epilogs() for line in text.splitlines())


def _told() -> list[str]:
    """Commands that messages and docstrings tell people to run."""
    texts = [file.read_text() for file in sorted(ROOT.rglob("*.py"))]
    return sorted({match for text in texts for match in re.findall(r"`slm-authz ([a-z][^`\n]*)`", text)})


@pytest.mark.parametrize("told", _told())
def test_commands_that_messages_name_are_there(told: str) -> None:
    name, *rest = told.split()
    assert name in COMMANDS
    actions = actions_of(name)
    if actions and rest and re.fullmatch(r"[a-z|]+", rest[0]):
        assert set(rest[0].split("|")) <= actions.keys()


# -- what there is


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("config", ["check", "show", "schema"]),
        ("keys", ["create", "list", "show", "update", "verify", "disable", "enable", "rotate", "revoke"]),
        ("audit", ["tail", "query"]),
        *((name, []) for name in ("up", "serve", "usage", "envoy-config")),
    ],
)
def test_the_contracts_commands_are_there(name: str, actions: list[str]) -> None:
    assert sorted(actions_of(name)) == sorted(actions)


@pytest.mark.parametrize(
    "words",
    [
        ["explain"],
        ["replay"],
        ["doctor", "http://127.0.0.1:10000"],
        ["ratelimit", "check"],
        ["ratelimit", "explain"],
        ["keys", "import", "file"],
        ["keys", "export"],
        ["audit", "verify"],
    ],
    ids=" ".join,
)
def test_a_command_that_is_not_built_yet_is_absent(words: list[str], helped: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    parent, action = ("", words[0]) if words[0] not in COMMANDS else (words[0], words[1])
    assert re.search(rf"\b{action}\b", helped[parent]["out"]) is None
    assert main(words) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words", [["nonsense"], ["--nonsense"], ["-c", "x.yaml", "keys"], [""], ["KEYS"], ["key"], ["keys list"]], ids=repr
)
def test_an_unknown_command_is_wrong_usage_and_the_known_ones_are_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert repr(words[0]) in err
    assert all(name in err for name in COMMANDS)


def test_an_unknown_command_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["\x1b[2J"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_no_words_are_wrong_usage_with_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert "commands:" in out + err


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"slm-authz {slm_authz.__version__}\n"


def test_words_come_from_the_process_where_none_are_given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["slm-authz", "--version"])
    assert main() == 0
    assert slm_authz.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [*([name] for name in ("config", "keys", "audit")), *([*words, "--nonsense"] for words in PAGES if words)], ids=" ".join
)
def test_a_flag_that_is_none_is_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    page = " ".join(word for word in words if word != "--nonsense")
    assert err.startswith(f"usage: slm-authz {page} ")
    assert f"\nslm-authz {page}: error: " in err


@pytest.mark.parametrize("words", [["-c", "FILE", "usage"], ["--output", "json", "keys"], ["-cFILE", "usage"]], ids=" ".join)
def test_a_flag_before_the_command_is_told_where_it_goes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "flags go after the command, as in `slm-authz usage -c FILE`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["keys", "create", "--client", "a", "--expires", "-1d"], ["audit", "query", "--since", "-1h"]], ids=" ".join
)
def test_a_negative_duration_is_told_to_be_none(config: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "-c", str(config)]) == 2
    assert f"{words[-1]!r} is not a duration: write it like 30d" in capsys.readouterr().err


@pytest.mark.parametrize("words", [words for words in PAGES if words], ids=" ".join)
def test_every_argument_says_what_it_is_for(words: list[str]) -> None:
    page = argparse.ArgumentParser()
    if len(words) == 1:
        module_of(words[0]).add_arguments(page)
    else:
        page = actions_of(words[0])[words[1]]
    told = [action for action in page._actions if not isinstance(action, argparse._SubParsersAction)]
    assert [action.option_strings or action.dest for action in told if not action.help] == []


# -- how it ends

RAISED: Final = [
    (SlmAuthzError, 1),
    (ConfigError, 1),
    (NotFound, 1),
    (UsageError, 2),
    (DependencyError, 3),
    (StoreError, 3),
    (PortTaken, 3),
    (EnvoyMissing, 3),
]
RUNNABLE: Final = [["usage"], ["serve"], ["up"], ["envoy-config"], ["config", "show"], ["keys", "list"], ["audit", "query"]]


@pytest.mark.parametrize(("kind", "code"), RAISED)
def test_every_failure_of_ours_has_its_exit_code_and_one_line(
    kind: type[SlmAuthzError], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: argparse.Namespace) -> int:
        raise kind("It does not work.", "Do this.") if kind is not ConfigError else kind("It does not work. Do this.")

    monkeypatch.setattr(module_of("usage"), "run", run)
    assert main(["usage"]) == code
    assert capsys.readouterr() == ("", "slm-authz: It does not work. Do this.\n")


@pytest.mark.parametrize("words", RUNNABLE, ids=" ".join)
def test_an_interrupt_ends_every_command_with_130_and_no_traceback(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(module_of(words[0]), "run", run)
    assert main(words) == 130
    assert capsys.readouterr() == ("", "")


def test_a_store_that_fails_in_the_middle_is_a_dependency_in_one_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise StoreError("The disk is on fire.", "Put it out.")

    monkeypatch.setattr(SqliteKeyStore, "select", fail)
    for words in (["keys", "list"], ["keys", "list", "--output", "json"], ["keys", "revoke", "--client", "acme"]):
        assert main([*words, "-c", str(config)]) == 3
        assert capsys.readouterr() == ("", "slm-authz: The disk is on fire. Put it out.\n")


def test_a_port_that_is_taken_is_told_in_one_line_that_names_it(config: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        config.write_text(CONFIG.replace(":9001", ":0").replace('health: "127.0.0.1:0"', f'health: "{address}"'))
        done = process("serve", "-c", str(config))
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert address in line
    assert "listen.health" in line


def test_control_c_ends_a_follower_quietly(config: Path) -> None:
    command = [sys.executable, "-m", "slm_authz", "audit", "tail", "-c", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            heading = child.stdout.readline()
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=30)
        finally:
            child.kill()
    assert heading.startswith("TIME")
    assert child.returncode == 130
    assert "Traceback" not in err


# -- pipes and terminals


PRINTING: Final = [
    ["config", "schema"],
    ["config", "schema", "--output", "json"],
    ["config", "show"],
    ["envoy-config"],
    ["envoy-config", "--output", "json"],
    ["keys", "list"],
    ["audit", "query"],
    ["--version"],
    ["--help"],
    ["keys", "--help"],
    ["keys", "create", "--help"],
    [],
]
"""What prints much, and what prints so little that it is still buffered when the command has ended."""
BUFFERING: Final = pytest.mark.parametrize("unbuffered", [None, "1"], ids=["buffered", "unbuffered"])
FULL: Final = pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")


def with_file(words: list[str], config: Path) -> list[str]:
    return [*words, "-c", str(config)] if words else []


def into_a_closed_pipe(*words: str, unbuffered: str | None) -> subprocess.CompletedProcess[str]:
    """As `| head` leaves it; the pipe is closed beforehand, so that nothing depends on who is faster."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return process(*words, stdout=writing, env={"PYTHONUNBUFFERED": unbuffered})
    finally:
        os.close(writing)


def with_streams(redirection: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`slm-authz WORDS` as a shell starts it with `>&-` and the like."""
    command = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "slm_authz", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@BUFFERING
@pytest.mark.parametrize("words", PRINTING, ids=lambda words: " ".join(words) or "no words")
def test_a_reader_that_has_gone_is_no_error(config: Path, words: list[str], unbuffered: str | None) -> None:
    done = into_a_closed_pipe(*with_file(words, config), unbuffered=unbuffered)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.returncode == (0 if words else 2)


def test_a_no_stays_a_no_when_its_reader_has_gone(bad: Path) -> None:
    assert into_a_closed_pipe("config", "check", "-c", str(bad), unbuffered=None).returncode == 1


@FULL
@BUFFERING
@pytest.mark.parametrize("words", PRINTING, ids=lambda words: " ".join(words) or "no words")
def test_output_that_finds_no_room_is_a_failure_in_one_line(config: Path, words: list[str], unbuffered: str | None) -> None:
    (config.parent / "audit").mkdir()
    with Path("/dev/full").open("w") as full:
        done = process(*with_file(words, config), stdout=full, env={"PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 3
    assert done.stderr == "slm-authz: standard output cannot be written: no space left on device\n"


@pytest.mark.parametrize("words", PRINTING, ids=lambda words: " ".join(words) or "no words")
def test_closed_streams_are_no_error(config: Path, words: list[str]) -> None:
    for redirection in ("<&- >&-", "<&- 2>&-", "<&- >&- 2>&-"):
        done = with_streams(redirection, *with_file(words, config))
        assert (done.returncode, "Traceback" in done.stderr) == (0 if words else 2, False)
        assert bool(done.stdout) == (">&- " not in f"{redirection} ".replace("2>&-", ""))


def test_a_complaint_that_nobody_hears_is_not_printed_elsewhere() -> None:
    done = with_streams("2>&-", "nonsense")
    assert (done.returncode, done.stdout) == (2, "")


@FULL
def test_a_complaint_that_finds_no_room_keeps_its_exit_code() -> None:
    with Path("/dev/full").open("w") as full:
        assert process("nonsense", stderr=full).returncode == 2


@pytest.mark.parametrize("redirection", ["<&-", "</dev/null"])
def test_without_standard_input_there_is_no_key_to_verify(config: Path, redirection: str) -> None:
    done = with_streams(redirection, "keys", "verify", "-c", str(config))
    assert (done.returncode, done.stderr) == (1, "")


def listed(config: Path) -> list[dict[str, Any]]:
    done = process("keys", "list", "-c", str(config), "--output", "json")
    found: list[dict[str, Any]] = json.loads(done.stdout)["data"]
    return found


@BUFFERING
@pytest.mark.parametrize("output", ["table", "json"])
def test_a_key_that_nobody_has_seen_is_named_for_revocation(config: Path, unbuffered: str | None, output: str) -> None:
    words = ("keys", "create", "--client", "acme", "--output", output, "-c", str(config))
    ends = [into_a_closed_pipe(*words, unbuffered=unbuffered)]
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            ends.append(process(*words, stdout=full, env={"PYTHONUNBUFFERED": unbuffered}))
    named = []
    for done in ends:
        assert done.returncode == 3
        (line,) = done.stderr.splitlines()
        named += re.findall(r"`slm-authz keys revoke (\w{12})`", line)
    assert sorted(named) == sorted(key["id"] for key in listed(config))
    assert len(named) == len(ends)


@BUFFERING
@pytest.mark.parametrize("output", ["table", "json"])
def test_a_secret_that_nobody_has_seen_is_to_be_made_again(config: Path, unbuffered: str | None, output: str) -> None:
    process("keys", "create", "--client", "acme", "--tier", "free", "-c", str(config))
    (made,) = listed(config)
    done = into_a_closed_pipe("keys", "rotate", made["id"], "--output", output, "-c", str(config), unbuffered=unbuffered)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert made["id"] in line
    assert "Rotate it again" in line
    assert [key["version"] for key in listed(config)] == [2]


def test_no_key_is_made_where_nobody_could_see_it(config: Path) -> None:
    done = with_streams(">&-", "keys", "create", "--client", "acme", "-c", str(config))
    assert done.returncode == 3
    assert "Nothing was changed" in done.stderr
    assert listed(config) == []
    process("keys", "create", "--client", "acme", "-c", str(config))
    (made,) = listed(config)
    done = with_streams(">&-", "keys", "rotate", made["id"], "-c", str(config))
    assert (done.returncode, listed(config)) == (3, [made])


def on_terminal(*words: str, env: Mapping[str, str | None]) -> str:
    """What a pseudo-terminal shows of a command."""
    master, slave = os.openpty()
    try:
        try:
            process(*words, stdout=slave, stderr=slave, env=env)
        finally:
            os.close(slave)
        shown = b""
        try:
            while block := os.read(master, 65536):
                shown += block
        except OSError:  # EIO: on Linux the end of what was written
            pass
        return shown.decode()
    finally:
        os.close(master)


@pytest.mark.parametrize(
    ("env", "coloured"),
    [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": "0"}, False), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR=", "NO_COLOR=1", "NO_COLOR=0", "TERM=dumb"],
)
@pytest.mark.parametrize("words", [["config", "check"], ["keys", "list"]], ids=" ".join)
def test_colour_is_for_terminals_that_want_it(
    config: Path, bad: Path, words: list[str], env: dict[str, str | None], coloured: bool
) -> None:
    file = bad if words[0] == "config" else config
    shown = on_terminal(*words, "-c", str(file), env=env)
    assert ("error" if words[0] == "config" else "CLIENT") in shown
    assert ("\x1b[" in shown) is coloured


def test_json_has_no_colour_even_on_a_terminal(bad: Path) -> None:
    shown = on_terminal("config", "check", "--output", "json", "-c", str(bad), env={})
    assert json.loads(shown)["ok"] is False
    assert "\x1b" not in shown


@pytest.mark.parametrize("words", [["config", "check"], ["keys", "list"], ["--help"], ["keys", "--help"]], ids=" ".join)
def test_what_is_no_terminal_gets_no_escape_codes(
    config: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    main([*words, *([] if "--help" in words else ["-c", str(config)])])
    out, err = capsys.readouterr()
    assert out
    assert "\x1b" not in out + err


# -- which configuration

READERS: Final = [
    ["config", "check"],
    ["config", "show"],
    ["keys", "create", "--client", "acme"],
    ["keys", "list"],
    ["keys", "show", "0123456789AB"],
    ["keys", "update", "0123456789AB", "--name", "N"],
    ["keys", "verify"],
    ["keys", "disable", "0123456789AB"],
    ["keys", "enable", "0123456789AB"],
    ["keys", "rotate", "0123456789AB"],
    ["keys", "revoke", "0123456789AB"],
    ["usage"],
    ["audit", "query"],
    ["audit", "tail"],
    ["envoy-config"],
    ["serve"],
]
"""Every command that reads a configuration; `up`, which can do without, has tests of its own."""


class Places:
    """Three wrong configurations, one in each place where a command looks: the answer names the one that was read."""

    def __init__(self, directory: Path) -> None:
        self.given, self.named, self.here = (directory / name for name in ("given.yaml", "named.yaml", "slm-authz.yaml"))
        for file in (self.given, self.named, self.here):
            file.write_text("nonsense: 1\n")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    found = Places(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLM_AUTHZ_CONFIG", str(found.named))
    return found


def files_named(text: str) -> set[str]:
    return set(re.findall(r"\w[\w-]*\.yaml", text))


def test_no_command_that_reads_a_configuration_is_forgotten() -> None:
    ends = [words for words in PAGES if words and not (len(words) == 1 and actions_of(words[0]))]
    assert {tuple(words[: len(end)]) for words in READERS for end in ends if words[: len(end)] == end} == {
        tuple(end) for end in ends if end not in (["up"], ["config", "schema"])
    }


@pytest.mark.parametrize("words", READERS, ids=lambda words: " ".join(words[:2]))
def test_the_flag_goes_before_the_environment_which_goes_before_the_directory(
    words: list[str], places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for flag in (["-c", str(places.given)], [f"--config={places.given}"]):
        assert main([*words, *flag]) == 1
        assert files_named("".join(capsys.readouterr())) == {"given.yaml"}
    assert main(words) == 1
    assert files_named("".join(capsys.readouterr())) == {"named.yaml"}
    monkeypatch.delenv("SLM_AUTHZ_CONFIG")
    assert main(words) == 1
    assert files_named("".join(capsys.readouterr())) == {"slm-authz.yaml"}


@pytest.mark.parametrize("words", READERS, ids=lambda words: " ".join(words[:2]))
def test_where_there_is_no_file_the_three_places_are_not_searched_any_further(
    words: list[str], places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads nowhere is wrong usage, not a reason to take another file."""
    places.given.unlink()
    assert main([*words, "-c", str(places.given)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "-c FILE or SLM_AUTHZ_CONFIG" in err
    places.named.unlink()
    assert main(words) == 2
    monkeypatch.delenv("SLM_AUTHZ_CONFIG")
    places.here.unlink()
    assert main(words) == 2
    assert "slm-authz.yaml" in capsys.readouterr().err


NO_POLICY: Final = "policies: [{name: p, when: request.nothing, deny: {}}]\n"


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("words", [*READERS, ["up"]], ids=lambda words: " ".join(words[:2]))
def test_a_policy_that_does_not_compile_is_an_invalid_configuration_for_every_command(
    config: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(CONFIG + NO_POLICY)
    assert main([*words, "-c", str(config)]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"line 8\b|:8:", out + err)


# -- secrets

KEY: Final = "slm_test_0123456789AB_0123456789ABCDEFGHIJKLMNOPQRSTUV3q5Muq"
"""The contract's example: well-formed, and of nobody."""


@pytest.mark.parametrize(
    "words",
    [
        [KEY],
        ["keys", KEY],
        ["keys", "list", KEY],
        ["keys", "list", f"--{KEY}"],
        ["keys", "list", "--tier", KEY],
        ["keys", "list", "--state", KEY],
        ["keys", "show", KEY],
        ["keys", "show", f" {KEY}"],
        ["keys", "show", f"Bearer {KEY}"],
        ["keys", "show", KEY[:40]],
        ["keys", "revoke", KEY],
        ["keys", "revoke", "--client", KEY],
        ["keys", "create", "--client", "acme", "--label", KEY],
        ["keys", "create", "--client", "acme", "--label", f"{KEY}=1", f"{KEY}=2"],
        ["keys", "create", "--client", "acme", "--allow-ip", KEY],
        ["keys", "create", "--client", "acme", "--tier", KEY],
        ["keys", "create", "--client", "acme", "--models", KEY],
        ["keys", "create", "--client", "acme", "--expires", KEY],
        ["usage", "--key", KEY],
        ["usage", "--client", KEY],
        ["usage", "--model", KEY],
        ["usage", KEY],
        ["audit", "query", "--reason", KEY],
        ["audit", "query", "--since", KEY],
        ["audit", "query", "--limit", KEY],
        ["audit", "query", "--outcome", KEY],
        ["envoy-config", "--listen", KEY],
        ["envoy-config", "--upstream", f"http://{KEY}@host"],
        ["envoy-config", "--upstream-key-env", KEY],
        ["config", "check", "-c", KEY],
        ["serve", "--log-level", KEY],
        ["up", "--listen", KEY],
        ["up", "--upstream", KEY],
    ],
    ids=lambda words: " ".join(words).replace(KEY, "KEY"),
)
@pytest.mark.usefixtures("signals")
def test_a_key_in_the_wrong_place_is_never_repeated(config: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, *([] if "-c" in words or len(words) == 1 else ["-c", str(config)])]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err
    assert KEY[22:40] not in err


def test_a_failure_in_a_log_or_of_a_library_is_masked_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: argparse.Namespace) -> int:
        print(f"a library says {KEY!r}, {KEY}", file=sys.stderr)
        return 0

    monkeypatch.setattr(module_of("usage"), "run", run)
    assert main(["usage"]) == 0
    assert capsys.readouterr().err == "a library says 'slm_…', slm_…\n"

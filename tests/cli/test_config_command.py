"""`slm-authz config check|show|schema`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slm_authz.cli.main import main
from slm_authz.settings.load import EXAMPLE

BAD = """\
version: 1
identity: [{api_key: {}}]
models: {m: {}}
tiers: {free: {models: [mm], limits: [{requests: 1, per: day}]}}
policies:
  - name: a
    when: request.strem == false
    deny: {code: nope}
  - name: b
    when: request.max_output_tokens
wrkers: 1
"""


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    return file


def test_check_of_a_good_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "-c", str(EXAMPLE)]) == 0
    assert capsys.readouterr().out == f"{EXAMPLE}: ok\n"
    assert main(["config", "check", "-c", str(EXAMPLE), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "problems": []}


def test_check_names_every_problem_as_compilers_do(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "-c", str(bad)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{bad}:4: error: no configured model is meant by `mm` [tiers.free.models.0]"
    assert lines[1] == "    fix: Configured models: m."
    assert [line.split(": ")[0].rpartition(":")[2] for line in lines if not line.startswith(" ")] == ["4", "7", "10", "11"]


def test_the_name_of_the_file_cannot_move_the_cursor(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = bad.with_name("\x1b[2J\n.yaml")
    odd.write_text(BAD)
    main(["config", "check", "-c", str(odd)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.splitlines()[0].startswith(f"{bad.parent}/\\x1b[2J\\n.yaml:4: error: ")


def test_check_as_json_has_exactly_the_contracts_members(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "-c", str(bad), "--output", "json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert list(answer) == ["ok", "problems"]
    assert answer["ok"] is False
    assert all(list(problem) == ["severity", "line", "path", "message", "fix"] for problem in answer["problems"])
    assert [(problem["line"], problem["path"]) for problem in answer["problems"]] == [
        (4, "tiers.free.models.0"),
        (7, "policies.0.when"),
        (10, "policies.1.when"),
        (11, "wrkers"),
    ]


def test_warnings_do_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "w.yaml"
    file.write_text("version: 1\nidentity: [{api_key: {}}]\nmodels: {m: {}, n: {}}\ntiers: {free: {models: [m]}}\n")
    assert main(["config", "check", "-c", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"{file}:3: warning: no tier admits the model `n`" in out
    assert out.endswith("ok, 1 warning\n")


def test_no_file_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("check", "show"):
        assert main(["config", action, "-c", str(tmp_path / "none.yaml")]) == 2
        assert "-c FILE" in capsys.readouterr().err


def test_what_the_file_holds_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(BAD + '"\\e[2J": 1\n')
    assert main(["config", "check", "-c", str(file)]) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_show_fills_in_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "-c", str(EXAMPLE)]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["client_address"] == {"from": "peer"}
    assert shown["tiers"]["pro"]["limits"][2]["cost"] == "1"
    assert main(["config", "show", "-c", str(EXAMPLE), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == shown


def test_show_of_a_bad_file_says_what_to_do(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "-c", str(bad)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "config check" in captured.err


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    pretty = capsys.readouterr().out
    assert main(["config", "schema", "--output", "json"]) == 0
    assert json.loads(pretty) == json.loads(capsys.readouterr().out)
    assert "tiers" in json.loads(pretty)["properties"]


@pytest.mark.parametrize("action", ["check", "show", "schema"])
def test_help_carries_an_example_and_loads_nothing_heavy(action: str) -> None:
    code = f"""
import sys
from slm_authz.cli.main import main
try:
    main(["config", {action!r}, "--help"])
finally:
    print(sorted({{"pydantic", "yaml", "grpc"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"slm-authz config {action}" in done.stdout
    assert "example:" in done.stdout
    assert done.stdout.endswith("[]\n")

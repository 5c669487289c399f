"""What the reader makes of YAML, whatever is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.settings.fields import Resolved
from slm_authz.settings.source import MAX_BYTES, Document, read

HERE = Path()


def of(text: str | bytes, base: Path = HERE, env: dict[str, str] | None = None) -> Document:
    return read(text.encode() if isinstance(text, str) else text, base, env or {})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("off", "off"), ("y", "y"), ("1:30", "1:30"), ("010", "010"), ("0x10", "0x10"), ("0o10", "0o10"),
        ("1_000", "1_000"), ("2026-01-01", "2026-01-01"), (".inf", ".inf"), (".nan", ".nan"), ("+1", 1), ("-0", 0), ("12", 12), ("1.50", 1.5), (".5", 0.5),
        ("1.5e+3", 1500.0), ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("'12'", "12"), ('"true"', "true"), ("'~'", "~"),
        ("!!str 12", "12"), ("!!str true", "true"), ("|\n  12", "12\n"), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    document = of(f"a: {text}\n")
    assert document.problems == []
    assert document.data == {"a": value}
    assert type(document.data["a"]) is type(value)


def test_every_path_has_its_line() -> None:
    document = of(
        "version: 1\ntiers:\n  free:\n    limits:\n      - {requests: 1}\n      - tokens: 5\n        per: day\nlist:\n- a\n-\n  b\n"
    )
    lines = document.lines
    assert lines["tiers.free.limits.0.requests"] == 5
    assert (lines["tiers.free.limits.1"], lines["tiers.free.limits.1.tokens"], lines["tiers.free.limits.1.per"]) == (6, 6, 7)
    assert (lines["tiers"], lines["tiers.free"], lines["list.0"], lines["list.1"]) == (2, 3, 9, 11)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "is empty"),
        ("# nothing\n", 1, "is empty"),
        ("- a\n", 1, "one YAML mapping"),
        ("\n\njust text", 3, "one YAML mapping"),
        ("a: 1\n---\nb: 2\n", 2, "second YAML document"),
        ("a: 1\nb: 2\na: 3\n", 3, "`a` stands here twice, first on line 1"),
        ("a:\n  b: 1\n  'b': 2\n", 3, "`b` stands here twice"),
        ("a: {x: 1}\nb:\n  <<: {y: 1}\n", 3, "merge keys"),
        ("a: 1\n? [b]\n: c\n", 2, "merge keys and lists as keys"),
        ("a: 1\nb: !!python/object:os.system x\n", 2, "tags"),
        ("a: !!int 3\n", 1, "tags"),
        ("a: !secret x\n", 1, "tags"),
        ("!top\na: 1\n", 1, "tags"),
        ("a: ! 12\n", 1, "tags"),
        ("a: 1\n\tb: 2\n", 2, "a tab indents this line"),
        ("a:\n\t- b\n", 2, "a tab indents this line"),
        ("a: b: c\n", 1, "not valid YAML"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not valid YAML"),
        ('a: "x\n', 1, "not valid YAML"),
        ("a: *nobody\n", 1, "not valid YAML"),
        ("a: 1\nb: \x07\n", 2, "not valid YAML"),
        ("%YAML 3.0\n---\na: 1\n", 1, "not valid YAML"),
        ('a: "\\ud800"\n', 1, "not valid YAML"),
        ("a: " + "[" * 40 + "]" * 40 + "\n", 1, "nested too deeply"),
        ("a: " + "[" * 100_000, 1, "nested too deeply"),
        ("a: &x [*x]\n", 1, "nested too deeply"),
        ("a: &x {b: *x, c: *x}\n", 1, "nested too deeply"),
        ("a: [" + "1," * 60_000 + "]\n", 1, "nested too deeply"),
        ("a: 1\n" + "k" * 300 + ": 2\n", 2, "longer than 256"),
    ],
)
def test_what_cannot_be_read_says_where(text: str, line: int, words: str) -> None:
    (problem,) = of(text).problems
    assert problem.line == line
    assert words in problem.message
    assert problem.fix


def test_not_text() -> None:
    (problem,) = of(b"a: 1\nb: \xff\n").problems
    assert (problem.line, problem.message) == (2, "the file is not UTF-8 text")
    (problem,) = of("a: 1".encode("utf-16")).problems
    assert problem.message == "the file is not UTF-8 text"
    assert of("\ufeffa: 1").data == {"a": 1}


def test_too_long() -> None:
    (problem,) = of(b"#" * (MAX_BYTES + 1)).problems
    assert "1 MiB" in problem.message


def test_aliases_that_multiply_are_stopped_early() -> None:
    laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 20))
    (problem,) = of(laughs).problems
    assert "aliases expand too far" in problem.message


def test_aliases_of_a_sane_size_work() -> None:
    assert of("a: &x [1, 2]\nb: *x\n").data == {"a": [1, 2], "b": [1, 2]}


def test_references(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n\n")
    (tmp_path / "one").write_text("7\r\n")
    document = of("a: {env: A}\nb: {file: token}\nc: [{file: one}]\nd: {e: {env: A}}\n", tmp_path, {"A": "x\n"})
    assert document.problems == []
    assert document.data == {"a": "x\n", "b": "s3cret\n", "c": ["7"], "d": {"e": "x\n"}}
    assert isinstance(document.data["a"], Resolved)
    assert document.origins == {"a": "env A", "b": "file token", "c.0": "file one", "d.e": "env A"}
    assert document.files == [tmp_path / "token", tmp_path / "one"]


def test_what_only_looks_like_a_reference() -> None:
    text = "env: A\nfile: token\naudit: {sinks: [{file: ./var}, {env: x}, {file: {env: D}, max: {env: M}}]}\nmodels: {file: {env: {a: 1}}, x: {env: [a]}}\n"
    document = of(text, env={"D": "./d", "M": "1GiB"})
    assert document.problems == []
    assert document.data == {
        "env": "A",
        "file": "token",
        "audit": {"sinks": [{"file": "./var"}, {"env": "x"}, {"file": "./d", "max": "1GiB"}]},
        "models": {"file": {"env": {"a": 1}}, "x": {"env": ["a"]}},
    }
    assert of("env: A\n", env={"A": "x"}).data == {"env": "A"}


@pytest.mark.parametrize("name", ["missing", ".", "pipe", "binary", "large", "a\\0b", "/dev/zero", "{env: A}"])
def test_a_reference_that_leads_nowhere(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    document = of(f"a: 1\nb:\n  c: {{file: {name if name.startswith('{') else chr(34) + name + chr(34)}}}\n", tmp_path, {"A": "top secret"})
    if name.startswith("{"):  # the name of a file may not come from elsewhere, or an error would tell it
        assert document.data == {"a": 1, "b": {"c": {"file": "top secret"}}}
        return
    (problem,) = document.problems
    assert (problem.line, problem.path) == (3, "b.c")
    assert "cannot be read" in problem.message
    assert document.missing == ["b.c"]


def test_a_variable_that_is_not_set_or_not_text() -> None:
    document = of("a: {env: A}\nb: {env: B}\n", env={"B": "\udcff"})
    assert [(problem.line, problem.message) for problem in document.problems] == [
        (1, "the environment variable A is not set"),
        (2, "the environment variable B is not UTF-8 text"),
    ]


@given(st.one_of(st.binary(max_size=60), st.text(alphabet="a1: -[]{}&*!|>'\"#%\n\t,?<é", max_size=60).map(str.encode)))
def test_any_bytes_give_data_or_a_problem(text: bytes) -> None:
    document = of(text)
    assert isinstance(document.data, dict) or document.problems
    for problem in document.problems:
        assert problem.line is None or 1 <= problem.line <= text.count(b"\n") + text.count(b"\r") + 2
        assert problem.fix

"""YAML text → plain data and a line for every path. Enters: bytes, environment. Leaves: `Document`, with every problem found.

YAML is read as a node graph, so that duplicate keys and lines are known; scalars are typed by YAML 1.2's core rules, so that `no`, `on`
and `1:30` are text, and `010` is text too, because nobody knows which number it means. Any scalar may be `{env: NAME}` or
`{file: PATH}`. Bounded before anything is built: size, depth, number of nodes, what aliases expand to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from slm_authz.settings.fields import Resolved
from slm_authz.settings.problems import Problem

MAX_BYTES: Final = 1 << 20
MAX_NODES: Final = 50_000
MAX_DEPTH: Final = 32
MAX_KEY: Final = 256
MAX_VALUE: Final = 65_536
"""Bytes of a file that a scalar may come from."""

_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)\.[0-9]*)([eE][-+]?[0-9]{1,3})?")
_WORDS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_SINK: Final = re.compile(r"audit\.sinks\.[0-9]+")
"""Where `{file: PATH}` is an audit sink, not a reference."""
_TAGS: Final = frozenset({None, "tag:yaml.org,2002:str"})
_DOCUMENT_EVENTS: Final = (yaml.MappingStartEvent, yaml.SequenceStartEvent, yaml.ScalarEvent, yaml.AliasEvent)

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Document(msgspec.Struct):
    """Plain data; the line of each dotted path; where scalars came from (`env NAME`, `file PATH`); files read for them; their values."""

    data: Any
    lines: dict[str, int]
    origins: dict[str, str]
    files: list[Path]
    secrets: list[str]
    problems: list[Problem]
    missing: list[str]
    """Paths whose value could not be resolved."""

    def add(self, line: int | None, path: str, message: str, fix: str) -> None:
        """One more error."""
        self.problems.append(Problem("error", line, path, message, fix))


def read(text: bytes, base: Path, env: Mapping[str, str]) -> Document:
    """Read one configuration. `base` is the directory that relative `{file: …}` paths start from. `data` is None if it cannot be read."""
    document = Document(None, {}, {}, [], [], [], [])
    if len(text) > MAX_BYTES:
        document.add(None, "", "the file is larger than 1 MiB", "A configuration is a few kilobytes: is this the right file?")
        return document
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        document.add(text.count(b"\n", 0, wrong.start) + 1, "", "the file is not UTF-8 text", "Save it as UTF-8.")
        return document
    try:
        if _bounded(decoded, document):
            root = yaml.compose(decoded, Loader=_Loader)
            document.data = _Reader(document, base, env).mapping(root, "", 0)
    except (yaml.YAMLError, RecursionError) as wrong:
        _broken(decoded, wrong, document)
    return document


def _bounded(text: str, document: Document) -> bool:
    """One pass over the events, which builds nothing: whether there is one mapping of a sane shape, without tags."""
    depth = nodes = documents = 0
    event: Any
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents == 2:
                document.add(line, "", "a second YAML document begins here", "Keep one, without a line of `---` in between.")
        elif isinstance(event, _DOCUMENT_EVENTS):
            nodes += 1
            if nodes == 1 and not isinstance(event, yaml.MappingStartEvent):
                document.add(line, "", "the file must be one YAML mapping", "Begin it with `version: 1`.")
            if getattr(event, "tag", None) not in _TAGS:
                document.add(line, "", "YAML tags (`!…`) are not supported", "Remove the tag and write the value plainly.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            _too_much(document, line)
            return False
    if not documents:
        document.add(1, "", "the file is empty", "Begin it with `version: 1`; docs/configuration.md describes the rest.")
    return not document.problems


def _too_much(document: Document, line: int) -> None:
    document.add(line, "", "the file is nested too deeply, or its aliases expand too far", "Write it out plainly.")


def _broken(text: str, wrong: Exception, document: Document) -> None:
    """Words for PyYAML's: its own text may quote the file, so only its summary is used."""
    mark = getattr(wrong, "problem_mark", None)
    position = getattr(wrong, "position", None)
    line = mark.line if mark is not None else text.count("\n", 0, position) if position is not None else 0
    lines = text.splitlines()
    line = min(line, max(0, len(lines) - 1))
    what = str(getattr(wrong, "problem", None) or getattr(wrong, "reason", None) or "it cannot be read")
    indent = lines[line][: len(lines[line]) - len(lines[line].lstrip())] if lines else ""
    if "\t" in indent:
        document.add(line + 1, "", "a tab indents this line, which YAML forbids", "Indent it with spaces.")
        return
    if "nesting depth" in what:
        _too_much(document, line + 1)
        return
    document.add(line + 1, "", f"the file is not valid YAML: {what}", "Check indentation, quotes and colons there and just above.")


class _Reader:
    """Builds plain data from nodes, by recursion that `_bounded` and `depth` have made safe."""

    def __init__(self, document: Document, base: Path, env: Mapping[str, str]) -> None:
        self._document = document
        self._base = base
        self._env = env
        self._nodes = 0
        self._stopped = False

    def _value(self, node: Any, path: str, depth: int) -> Any:
        self._nodes += 1
        line = node.start_mark.line + 1
        self._document.lines.setdefault(path, line)
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            if not self._stopped:
                _too_much(self._document, line)
            self._stopped = True
            return None
        if isinstance(node, yaml.ScalarNode):
            if len(node.value) > MAX_VALUE:
                self._document.add(line, path, f"a value is longer than {MAX_VALUE} characters", "Shorten it.")
                return node.value[:1]
            return scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, f"{path}.{index}", depth + 1) for index, item in enumerate(node.value)]
        return self.mapping(node, path, depth)

    def mapping(self, node: Any, path: str, depth: int) -> Any:
        """A mapping, or what the reference that it is stands for. `depth` bounds what aliases unfold to."""
        document = self._document
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
                document.add(
                    line, path, "a key must be a plain word: merge keys and lists as keys are not supported", "Write the values out."
                )
                continue
            key = key_node.value
            if len(key) > MAX_KEY or not key.isprintable():
                document.add(line, path, f"a key is longer than {MAX_KEY} characters, or holds some that cannot be shown", "Rename it.")
                continue
            inner = f"{path}.{key}" if path else key
            if key in mapping:
                document.add(line, inner, f"`{key}` stands here twice, first on line {document.lines[inner]}", "Remove one of the two.")
                continue
            document.lines[inner] = line
            mapping[key] = self._value(value_node, inner, depth + 1)
        if path and len(mapping) == 1 and len(node.value) == 1 and _SINK.fullmatch(path) is None:
            ((key, name),) = mapping.items()
            if key in ("env", "file") and type(name) is str:
                return self._reference(key, name, path, node.start_mark.line + 1)
        return mapping

    def _reference(self, kind: str, name: str, path: str, line: int) -> str | None:
        value = self._env.get(name) if kind == "env" else self._file(name)
        document = self._document
        document.origins[path] = f"{kind} {name}"
        if isinstance(value, str) and _storable(value):
            document.secrets.append(value)
            return Resolved(value)
        document.missing.append(path)
        if kind == "env" and value is None:
            document.add(line, path, f"the environment variable {name} is not set", f"Set {name}, or write the value here.")
        elif kind == "env":
            document.add(line, path, f"the environment variable {name} is not UTF-8 text", f"Correct {name}.")
        else:
            why = value.strerror if isinstance(value, OSError) and value.strerror else "it is not a small UTF-8 text file"
            document.add(
                line, path, f"the file {name} cannot be read: {why}", "Check its path, which starts at this file, and its permissions."
            )
        return None

    def _file(self, name: str) -> str | Exception:
        """The text of a file without one trailing newline, or why there is none."""
        try:
            path = self._base / name
            self._document.files.append(path)
            if path.exists() and not path.is_file():  # a pipe or a device would never end
                return ValueError("not a regular file")
            descriptor = os.open(
                path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            )  # what waits for more, as some files of /proc do, is no value
            with os.fdopen(descriptor, "rb") as file:
                text: bytes | None = file.read(MAX_VALUE + 1)
            if text is None or len(text) > MAX_VALUE:
                return ValueError("too long, or never ready")
            return text.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, ValueError) as wrong:  # ValueError: not UTF-8, or a NUL in the path
            return wrong


def _storable(text: str) -> bool:
    """Whether it is text at all: an environment variable may hold bytes that are not (PEP 383)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def scalar(node: Any) -> Any:
    """One scalar by YAML 1.2's core rules, without octal and hexadecimal numbers. Quoted, or tagged `!!str`, it is text."""
    text: str = node.value
    if node.style in ("'", '"', "|", ">"):
        return text
    if node.tag == "tag:yaml.org,2002:str":
        return text
    if text in _NULLS:
        return None
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text

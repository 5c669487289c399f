"""YAML text → plain data and a line for every path. Enters: bytes, environment. Leaves: `Document`, or every problem at once.

YAML is read as a node tree, so that duplicate keys and lines are known; scalars are typed by YAML 1.2's core rules, so that `no`, `on`
and `1:30` are text. Any scalar may be `{env: NAME}` or `{file: PATH}`. Bounded: size, depth, number of nodes, aliases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from slm_authz.settings.problems import Problem

MAX_BYTES: Final = 1 << 20
MAX_NODES: Final = 100_000
MAX_DEPTH: Final = 32
_INT: Final = re.compile(r"[-+]?\d{1,18}")
_FLOAT: Final = re.compile(r"[-+]?(\.\d+|\d+\.\d*)([eE][-+]?\d+)?")
_WORDS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Document(msgspec.Struct):
    """Plain data; the line of each dotted path; files and secrets that scalars came from."""

    data: Any
    lines: dict[str, int]
    files: list[Path]
    secrets: list[str]
    problems: list[Problem]


def read(text: bytes, base: Path, env: Mapping[str, str]) -> Document:
    """Read one configuration. `base` is the directory that relative `{file: …}` paths start from."""
    document = Document(None, {}, [], [], [])
    if len(text) > MAX_BYTES:
        _problem(
            document, None, "", f"the file is larger than {MAX_BYTES} bytes", "A configuration is a few kilobytes: is this the right file?"
        )
        return document
    try:
        nodes = list(yaml.compose_all(text.decode("utf-8"), Loader=_Loader))
    except UnicodeDecodeError:
        _problem(document, None, "", "the file is not UTF-8", "Save it as UTF-8.")
        return document
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or "it cannot be read"
        _problem(
            document,
            mark.line + 1 if mark else None,
            "",
            f"the file is not valid YAML: {what}",
            "Check indentation, quotes and colons there.",
        )
        return document
    if len(nodes) != 1 or not isinstance(nodes[0], yaml.MappingNode):
        _problem(document, 1, "", "the file must be one YAML mapping", "Begin it with `version: 1`.")
        return document
    reader = _Reader(document, base, env)
    document.data = reader.value(nodes[0], "", 0)
    return document


def _problem(document: Document, line: int | None, path: str, message: str, fix: str) -> None:
    document.problems.append(Problem("error", line, path, message, fix))


class _Reader:
    def __init__(self, document: Document, base: Path, env: Mapping[str, str]) -> None:
        self._document = document
        self._base = base
        self._env = env
        self._nodes = 0

    def value(self, node: Any, path: str, depth: int) -> Any:
        self._nodes += 1
        line = node.start_mark.line + 1
        self._document.lines.setdefault(path, line)
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            if not any(problem.path == "" for problem in self._document.problems):
                _problem(self._document, line, "", "the file is nested too deeply, or its aliases expand too far", "Write it out plainly.")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{path}.{index}", depth + 1) for index, item in enumerate(node.value)]
        return self._mapping(node, path, depth)

    def _mapping(self, node: Any, path: str, depth: int) -> Any:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            line = key_node.start_mark.line + 1
            if key is None or key == "<<":
                _problem(
                    self._document,
                    line,
                    path,
                    "a key must be a plain word",
                    "Merge keys and complex keys are not supported: write the values out.",
                )
                continue
            inner = f"{path}.{key}" if path else key
            if key in mapping:
                _problem(self._document, line, inner, f"`{key}` stands here twice", "Remove one of the two.")
                continue
            self._document.lines[inner] = line
            mapping[key] = self.value(value_node, inner, depth + 1)
        if len(mapping) == 1 and not path.startswith("audit.sinks."):
            ((key, name),) = mapping.items()
            if key in ("env", "file") and isinstance(name, str):
                return self._reference(key, name, path, node.start_mark.line + 1)
        return mapping

    def _reference(self, kind: str, name: str, path: str, line: int) -> str | None:
        if kind == "env":
            value = self._env.get(name)
            if value is None:
                _problem(self._document, line, path, f"the environment variable {name} is not set", f"Set {name}, or write the value here.")
                return None
        else:
            file = self._base / name
            self._document.files.append(file)
            try:
                value = file.read_text("utf-8").removesuffix("\n")
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
                _problem(self._document, line, path, f"the file {name} cannot be read: {reason}", "Check its path and permissions.")
                return None
        self._document.secrets.append(value)
        return value

    def _scalar(self, node: Any) -> Any:
        text = node.value
        if node.style in ("'", '"', "|", ">") or node.tag.endswith(":binary"):
            return text
        if text in _NULLS:
            return None
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

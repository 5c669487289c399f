"""A configuration file → `Loaded`, or every problem at once, in file order. Enters: a path, the environment. Leaves: one frozen tree."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from slm_authz.errors import ConfigError, UsageError
from slm_authz.settings.checks import check
from slm_authz.settings.problems import Problem
from slm_authz.settings.schema import FileSink, Settings
from slm_authz.settings.source import Document, read
from slm_authz.settings.unbuilt import unbuilt

_TAGS: Final = frozenset({"FileSink", "OtlpSink", "PluginSink", "Price", "literal['free']"})
IDENTITY_GROUP: Final = "slm_authz.identity"
SINK_GROUP: Final = "slm_authz.audit_sink"


class Plugins(msgspec.Struct, frozen=True):
    """Names of installed entry points."""

    identity: frozenset[str] = frozenset()
    audit_sink: frozenset[str] = frozenset()


class Loaded(msgspec.Struct, frozen=True):
    """A configuration that can be served. digest: of the text, part of every audit event; files: others that it refers to."""

    path: Path
    settings: Settings
    digest: str
    warnings: tuple[Problem, ...]
    lines: dict[str, int]
    files: tuple[Path, ...]


def installed_plugins() -> Plugins:
    """What this environment has installed."""
    names = {group: frozenset(entry.name for entry in entry_points(group=group)) for group in (IDENTITY_GROUP, SINK_GROUP)}
    return Plugins(names[IDENTITY_GROUP], names[SINK_GROUP])


def load(path: Path | str, env: Mapping[str, str], plugins: Plugins | None = None) -> Loaded:
    """Read, validate and check one file. UsageError: there is no such file. ConfigError: it carries all problems."""
    path = Path(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"The configuration {path} cannot be read: {error.strerror}.",
            "Name one with -c FILE or SLM_AUTHZ_CONFIG; `slm-authz up` needs none.",
        ) from error
    document = read(text, path.parent, env)
    problems = list(document.problems)
    settings = None
    if isinstance(document.data, dict):
        settings = _validate(document, problems)
    if settings is not None:
        problems.extend(_placed(document, item) for item in check(settings, plugins or installed_plugins()))
    problems.sort(key=lambda problem: (problem.line or 0, problem.path))
    if settings is None or any(problem.severity == "error" for problem in problems):
        raise ConfigError(f"The configuration {path} has problems.", problems)
    digest = hashlib.sha256(text).hexdigest()[:16]
    return Loaded(path, _absolute(settings, path.parent.absolute()), digest, tuple(problems), document.lines, tuple(document.files))


def _validate(document: Document, problems: list[Problem]) -> Settings | None:
    findings, cleaned = unbuilt(document.data)
    problems.extend(Problem("error", line_of(document.lines, path), path, message, fix) for path, message, fix in findings)
    try:
        return Settings.model_validate(cleaned)
    except ValidationError as error:
        known = {problem.path for problem in problems}
        for item in error.errors(include_url=False, include_input=False, include_context=False):
            problem = _problem(document, item)
            if problem.path not in known:
                known.add(problem.path)
                problems.append(problem)
        return None


def _problem(document: Document, item: Any) -> Problem:
    location = [str(part) for part in item["loc"] if str(part) not in _TAGS]
    path = ".".join(location)
    message, fix = _words(item, location)
    line = line_of(document.lines, path)
    for secret in document.secrets:
        if secret:
            message = message.replace(secret, "***")
    return Problem("error", line, path, message, fix)


def _words(item: Any, location: list[str]) -> tuple[str, str]:
    """Plain words for pydantic's."""
    kind, name = item["type"], location[-1] if location else "the file"
    if kind == "extra_forbidden":
        known = _siblings(location)
        close = difflib.get_close_matches(name, known, n=1)
        fix = f"Did you mean `{close[0]}`?" if close else f"Known here: {', '.join(sorted(known))}." if known else "Remove it."
        return f"`{name}` is not a key of the configuration", fix
    if kind == "missing":
        return f"`{name}` is missing", f"Add {name}."
    if kind == "value_error":
        return item["msg"].removeprefix("Value error, "), "Correct this entry." if name.isdigit() else f"Correct {name}."
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"`{name}`: {message}", f"Correct the value of {name}; `slm-authz config schema` describes it."


def _siblings(location: list[str]) -> list[str]:
    """Names that the schema knows where an unknown one stood."""
    model: Any = Settings
    for part in location[:-1]:
        model = _step(model, part)
        if model is None:
            return []
    fields = getattr(model, "model_fields", None)
    return [field.alias or name for name, field in fields.items()] if fields else []


def _step(model: Any, part: str) -> Any:
    fields = getattr(model, "model_fields", {})
    for name, field in fields.items():
        if part in (name, field.alias):
            return _node_in(field.annotation)
    return model if not fields or part.isdigit() or model is not Settings else None


def _node_in(annotation: Any) -> Any:
    """The schema node inside an annotation such as `tuple[LimitSpec, ...]` or `Mapping[str, Tier]`."""
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _node_in(inner)
        if found is not None:
            return found
    return None


def line_of(lines: Mapping[str, int], path: str) -> int | None:
    """The line of a path, or of the nearest thing around it that has one."""
    while path:
        if path in lines:
            return lines[path]
        path = path.rpartition(".")[0]
    return lines.get("", 1)


def _placed(document: Document, problem: Problem) -> Problem:
    return msgspec.structs.replace(problem, line=line_of(document.lines, problem.path))


def _absolute(settings: Settings, base: Path) -> Settings:
    """Relative paths are relative to the file."""
    sinks = tuple(
        sink.model_copy(update={"file": base / sink.file}) if isinstance(sink, FileSink) else sink for sink in settings.audit.sinks
    )
    listen = settings.listen
    sockets = {
        name: f"unix:{(base / value.removeprefix('unix:')).as_posix()}"
        for name in ("grpc", "admin", "health")
        if (value := getattr(listen, name)).startswith("unix:")
    }
    store = settings.store
    match = re.fullmatch(r"sqlite:///(.+)", store.url)
    url = f"sqlite:///{base / match[1]}" if match else store.url
    return settings.model_copy(
        update={
            "audit": settings.audit.model_copy(update={"sinks": sinks}),
            "listen": listen.model_copy(update=sockets),
            "store": store.model_copy(update={"url": url}),
        }
    )


def database(settings: Settings) -> Path:
    """The SQLite file of the embedded store."""
    return Path(settings.store.url.removeprefix("sqlite:///"))

"""A configuration file → `Loaded`, or every problem at once, in file order. Enters: a path, the environment. Leaves: one frozen tree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import msgspec

from slm_authz.errors import ConfigError, UsageError
from slm_authz.settings.address import SOCKET_BYTES
from slm_authz.settings.checks import Plugins, check
from slm_authz.settings.problems import Finding, Problem, error
from slm_authz.settings.repair import Judged, judge
from slm_authz.settings.schema import FileSink, Settings
from slm_authz.settings.show import public
from slm_authz.settings.source import MAX_BYTES, Document, read
from slm_authz.settings.unbuilt import unbuilt

__all__ = ["EXAMPLE", "IDENTITY_GROUP", "SINK_GROUP", "Check", "Loaded", "Plugins", "database", "installed_plugins", "line_of", "load"]

IDENTITY_GROUP: Final = "slm_authz.identity"
SINK_GROUP: Final = "slm_authz.audit_sink"
EXAMPLE: Final = Path(__file__).with_name("example.yaml")
"""The commented file that everybody starts from."""

Check = Callable[[Settings], Iterable[tuple[str, str, str]]]
"""More that only another room can judge: errors as (path, message, fix)."""

_SQLITE: Final = "sqlite:///"
_SHORT: Final = 4
"""A resolved value that is shorter is masked only where it is quoted: it is part of too many words to be a secret."""


class Loaded(msgspec.Struct, frozen=True):
    """A configuration that can be served.

    digest: of what it says, without secrets and comments; part of every audit event
    lines: 1-based line of each dotted path; see `line_of`
    files: others that it refers to by `{file: PATH}`
    origins: dotted paths of values that are not in the file itself, with where they came from (`env NAME`, `file PATH`)
    """

    path: Path
    settings: Settings
    digest: str
    warnings: tuple[Problem, ...]
    lines: dict[str, int]
    files: tuple[Path, ...]
    origins: dict[str, str] = {}

    def line_of(self, path: str) -> int | None:
        """The line of a dotted path, or of the nearest thing around it that has one."""
        return line_of(self.lines, path)


def installed_plugins() -> Plugins:
    """What this environment has installed."""
    names = {group: frozenset(entry.name for entry in entry_points(group=group)) for group in (IDENTITY_GROUP, SINK_GROUP)}
    return Plugins(names[IDENTITY_GROUP], names[SINK_GROUP])


def load(path: Path | str, env: Mapping[str, str], plugins: Plugins | None = None, checks: Sequence[Check] = ()) -> Loaded:
    """Read, validate and check one file. UsageError: there is no such file. ConfigError: it carries all problems, warnings too."""
    path = Path(path)
    base = path.parent.absolute()
    document = read(_bytes_of(path), base, env)
    problems = list(document.problems)
    settings = None
    if document.data is not None:
        findings, cleaned = unbuilt(document.data)
        judged = judge(cleaned, [*document.missing, *(finding.path for finding in findings)])
        settings = judged.settings
        findings.extend(judged.findings)
        if settings is not None:
            found = (
                *check(settings, plugins or installed_plugins()),
                *_long_sockets(settings, base),
                *_foreign(settings, document, checks),
            )
            findings.extend(finding for finding in found if not judged.void(finding))
        problems.extend(_placed(document, finding) for finding in findings)
        settings = None if _repaired(judged) else settings
    problems = list(dict.fromkeys(problems))
    problems.sort(key=lambda problem: problem.line or 0)
    if settings is None and not problems:  # nothing that is known leads here; it must still never be served
        problems.append(Problem("error", 1, "", "the file cannot be judged", "Begin with slm_authz/settings/example.yaml."))
    if settings is None or any(problem.severity == "error" for problem in problems):
        raise ConfigError(_summary(path, problems), problems)
    digest = hashlib.sha256(msgspec.json.encode(public(settings, document.origins), order="sorted")).hexdigest()[:16]
    return Loaded(path, _absolute(settings, base), digest, tuple(problems), document.lines, tuple(document.files), document.origins)


def _bytes_of(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would hold up a service that looks at its file again and again
            raise UsageError(f"The configuration {path} is not a file.", "Name one with -c FILE or SLM_AUTHZ_CONFIG.")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as wrong:  # ValueError: a NUL in the name
        why = getattr(wrong, "strerror", None) or "this is not a file's name"
        raise UsageError(
            f"The configuration {path} cannot be read: {why}.",
            "Name one with -c FILE or SLM_AUTHZ_CONFIG; `slm-authz up` needs none.",
        ) from wrong


def _repaired(judged: Judged) -> bool:
    """Whether the tree says something else than the file: it may be judged, never served."""
    return bool(judged.findings or judged.doubts.places)


def _summary(path: Path, problems: Sequence[Problem]) -> str:
    errors = [problem for problem in problems if problem.severity == "error"]
    where = f"line {errors[0].line}: " if errors[0].line is not None else ""
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    return f"The configuration {path} has errors: {where}{errors[0].message}{more}. `slm-authz config check -c {path}` names all."


def _long_sockets(settings: Settings, base: Path) -> Iterator[Finding]:
    for name, socket in _sockets(settings, base).items():
        if len(socket.encode()) - len("unix:") > SOCKET_BYTES:
            fix = "Put the socket into a directory with a shorter name."
            yield error(
                f"listen.{name}", f"the socket's whole path is longer than the {SOCKET_BYTES} bytes that a Unix socket can have", fix
            )


def _foreign(settings: Settings, document: Document, checks: Sequence[Check]) -> Iterator[Finding]:
    """Other rooms' findings. They may quote parts of a value, so of one from elsewhere only what stands before the colon is told."""
    for check_more in checks:
        for path, message, fix in check_more(settings):
            yield error(path, message.partition(":")[0] if path in document.origins else message, fix)


def _placed(document: Document, finding: Finding) -> Problem:
    line = line_of(document.lines, finding.path)
    path = finding.path.replace("\x00", "?")
    return Problem(finding.severity, line, path, _masked(document, finding.message), _masked(document, finding.fix))


def _masked(document: Document, text: str) -> str:
    """Without any value that came from the environment or another file, quoted in whichever way, and without control characters."""
    for secret in sorted(set(document.secrets), key=len, reverse=True):
        if secret:
            text = text.replace(f"`{secret}`", "`***`").replace(repr(str(secret)), "'***'")
        if len(secret) >= _SHORT:
            text = text.replace(secret, "***").replace(repr(str(secret))[1:-1], "***")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def line_of(lines: Mapping[str, int], path: str) -> int | None:
    """The line of a path, or of the nearest thing around it that has one."""
    while path:
        if path in lines:
            return lines[path]
        path = path.rpartition(".")[0]
    return lines.get("", 1)


def _sockets(settings: Settings, base: Path) -> dict[str, str]:
    """Unix sockets among the listeners, relative to the file."""
    values = {name: getattr(settings.listen, name) for name in ("grpc", "admin", "health")}
    return {name: f"unix:{(base / value.removeprefix('unix:')).as_posix()}" for name, value in values.items() if value.startswith("unix:")}


def _absolute(settings: Settings, base: Path) -> Settings:
    """Relative paths are relative to the file."""
    sinks = tuple(
        sink.model_copy(update={"file": base / sink.file}) if isinstance(sink, FileSink) else sink for sink in settings.audit.sinks
    )
    file = settings.store.url.removeprefix(_SQLITE)
    return settings.model_copy(
        update={
            "audit": settings.audit.model_copy(update={"sinks": sinks}),
            "listen": settings.listen.model_copy(update=_sockets(settings, base)),
            "store": settings.store.model_copy(update={"url": f"{_SQLITE}{base / file}"}),
        }
    )


def database(settings: Settings) -> Path:
    """The SQLite file of the embedded store."""
    return Path(settings.store.url.removeprefix(_SQLITE))

"""Plain data → `Settings`, whatever is wrong with it, so that every mistake is found in one run.

What a validator refuses is reported, then taken out or replaced by something harmless, and the rest is judged again. Where that happened
is `doubtful`: what is concluded from such a place is no finding. A repaired tree is never served.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from slm_authz.settings.problems import Finding, error
from slm_authz.settings.schema import FileSink, Settings
from slm_authz.settings.unbuilt import ALL_MODELS, ALL_TIERS, PLACEHOLDER
from slm_authz.settings.words import closest, finding_of, known_names, location_of
from slm_authz.units import MAX_COUNT

_PASSES: Final = 24
_REPORTED: Final = 1000
"""More mistakes than this are not put into words: it is another file."""
_ENTRIES: Final[dict[str, Any]] = {
    "limits": {"requests": MAX_COUNT, "per": "second", "models": [PLACEHOLDER]},
    "identity": {PLACEHOLDER: {}},
    "sinks": {PLACEHOLDER: {}},
    "policies": {"name": PLACEHOLDER, "when": "false"},
    "paths": {"prefix": "/" + PLACEHOLDER, "model": "none"},
    "in": {"header": PLACEHOLDER},
}
"""A harmless entry for a list of that name; for lists of text it is PLACEHOLDER."""
_MEMBERS: Final[dict[str, Any]] = {
    "version": 1,
    "identity": [{PLACEHOLDER: {}}],
    "tiers": {PLACEHOLDER: {"models": [PLACEHOLDER]}},
    "model": "none",
    "input": "0",
    "output": "0",
    "prefix": "/" + PLACEHOLDER,
}
"""A harmless value for a mandatory member of that name; else it is PLACEHOLDER."""


class Doubts:
    """Dotted paths of places that are known to be wrong."""

    def __init__(self, places: Iterable[str] = ()) -> None:
        self.places: set[str] = set()
        self._around: set[str] = set()
        for place in places:
            self.add(place)

    def add(self, place: str) -> None:
        """Once a name or a pattern is in doubt, so is what follows from all names (ALL_MODELS) or all patterns (ALL_TIERS)."""
        self.places.add(place)
        self._around.update(_ancestors(place))
        if place.startswith("models.") and ".aliases" in place:
            self.places.add(ALL_MODELS)
        if place.startswith("tiers.") and (place.count(".") == 1 or ".models" in place):
            self.places.add(ALL_TIERS)

    def cover(self, path: str) -> bool:
        """Whether a path is such a place, lies in one, or around one."""
        return path in self.places or path in self._around or any(outer in self.places for outer in _ancestors(path))


def _ancestors(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


class Judged(msgspec.Struct):
    """What became of the data. `settings` is None where nothing could be saved."""

    settings: Settings | None
    findings: list[Finding]
    doubts: Doubts

    def void(self, finding: Finding) -> bool:
        """Whether that finding was concluded from a doubtful place."""
        return any(self.doubts.cover(place) for place in (finding.path, *finding.needs))


def judge(data: dict[str, Any], doubtful: Iterable[str] = ()) -> Judged:
    """Validate, repair, validate again. `doubtful`: places that are known to be wrong already."""
    judged = Judged(None, [], Doubts(doubtful))
    root = {"": _copied(data)}
    _drop_nulls(root[""], (), judged)
    for _ in range(_PASSES):
        try:
            judged.settings = Settings.model_validate(root[""])
        except ValidationError as wrong:
            _repair(root, wrong.errors(include_url=False, include_input=False), judged)
        else:
            return judged
    return judged


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _drop_nulls(value: Any, location: tuple[str | int, ...], judged: Judged) -> None:
    """A key without a value is a mistake, except where it means all defaults (`- api_key:`), and inside of a plugin's own mapping."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, item in items:
        place = (*location, key)
        if _plugins_own(place):
            continue
        if item is not None:
            _drop_nulls(item, place, judged)
        elif isinstance(value, dict) and key not in ("api_key", "otlp"):
            del value[key]
            path = ".".join(map(str, place))
            _report(error(path, f"`{key}` has no value", f"Give {key} a value, or remove it."), judged)
            judged.doubts.add(path)


def _plugins_own(place: tuple[str | int, ...]) -> bool:
    if place[0] == "identity" and len(place) == 3:
        return place[2] not in ("api_key", "anonymous")
    return place[:2] == ("audit", "sinks") and len(place) == 4 and place[3] not in (*FileSink.model_fields, "otlp")


def _report(finding: Finding, judged: Judged) -> None:
    if not judged.doubts.cover(finding.path):
        judged.findings.append(finding)


def _repair(root: dict[str, Any], items: list[Any], judged: Judged) -> None:
    """Report what is new in this pass, then take away its causes."""
    # pydantic counts only the entries of a list that are right: one that is short for their sake is not empty
    parents = {location_of(item)[:-1] for item in items if item["loc"]}
    deep = {parent[:length] for parent in parents for length in range(len(parent) + 1)}
    items = [item for item in items if item["type"] != "too_short" or location_of(item) not in deep]
    meant = {id(item): _meant(root, item) for item in items[:_REPORTED] if item["type"] == "extra_forbidden"}
    misspelt = set(meant.values())
    for item in items[:_REPORTED]:
        if not (item["type"] == "missing" and ".".join(map(str, location_of(item))) in misspelt):
            _report(finding_of(item), judged)
    for item in items:
        location = location_of(item)
        doubt = meant.get(id(item), ".".join(map(str, location)))
        if doubt is not None:
            judged.doubts.add(doubt)
        _mend(root, location, item["type"])


def _meant(root: dict[str, Any], item: Any) -> str | None:
    """The path that a misspelt key was meant to be, if nothing stands there."""
    name = closest(str(item["loc"][-1]), known_names(item["loc"]))
    location = location_of(item)
    if name is None or name in (_holder(root, location) or ()):
        return None
    return ".".join(map(str, (*location[:-1], name)))


def _holder(root: dict[str, Any], location: tuple[str | int, ...]) -> Any:
    """The mapping or list that the last part of `location` stands in; None: another item of this pass has taken it away."""
    holder: Any = root
    for part in ("", *location[:-1]):
        try:
            holder = holder[part]
        except (LookupError, TypeError):
            return None
    return holder


def _mend(root: dict[str, Any], location: tuple[str | int, ...], kind: str) -> None:
    holder = _holder(root, location)
    last = location[-1] if location else ""
    if isinstance(holder, list) and isinstance(last, int) and last < len(holder):
        name = str(location[-2])
        holder[last] = _copied(_ENTRIES.get(name, PLACEHOLDER))
    elif isinstance(holder, dict):
        mended = _member(location, kind)
        if mended is None:
            holder.pop(str(last), None)
        else:
            holder[str(last)] = mended


def _member(location: tuple[str | int, ...], kind: str) -> Any:
    """What stands for a member of a mapping; None: nothing, so that its default holds."""
    if kind == "extra_forbidden":
        return None
    name = str(location[-1])
    if len(location) == 2 and location[0] == "models":
        return {}
    if len(location) == 2 and location[0] == "tiers":
        return {"models": [PLACEHOLDER]}
    if name == "models":
        if len(location) == 1:
            return {PLACEHOLDER: {}}
        return [PLACEHOLDER]
    if kind == "missing" or (len(location) == 1 and name in ("identity", "tiers")):
        return _copied(_MEMBERS.get(name, PLACEHOLDER))
    return None

"""A validator's findings in plain words, with a remedy. Never repeats a value: it may be a secret."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args, get_origin

from slm_authz.settings.fields import SCALAR
from slm_authz.settings.problems import Finding, error
from slm_authz.settings.schema import FileSink, OtlpSink, PluginSink, Price, Settings
from slm_authz.units import format_duration, format_money

_SHAPES: Final = {
    "model_type": "must be a mapping, like {key: value}",
    "model_attributes_type": "must be a mapping, like {key: value}",
    "dict_type": "must be a mapping, like {key: value}",
    "mapping_type": "must be a mapping, like {key: value}",
    "tuple_type": "must be a list, like [a, b]",
    "too_short": "must not be empty",
    "string_pattern_mismatch": "must be three capital letters, like USD",
    "finite_number": "must be a number",
    "float_parsing": "must be a number",
}
_MEMBERS: Final[dict[object, Any]] = {"\x00file": FileSink, "\x00otlp": OtlpSink, "\x00plugin": PluginSink, "\x00price": Price}
_BOUNDS: Final = {
    "greater_than_equal": ("ge", "must be at least"),
    "less_than_equal": ("le", "must be at most"),
}


def location_of(item: Any) -> tuple[str | int, ...]:
    """Where it is, without the tags of union members: those begin with a NUL, which no key does."""
    return tuple(part for part in item["loc"] if part not in _MEMBERS and part != "\x00free")


def finding_of(item: Any) -> Finding:
    """One item of pydantic's `errors()`."""
    location = location_of(item)
    path = ".".join(map(str, location))
    kind = item["type"]
    name = _name(location)
    if kind == "extra_forbidden":
        return error(path, f"`{location[-1]}` is not a key that is known here", _remedy(item["loc"]))
    if kind == "missing":
        return error(path, f"`{name}` is missing", f"Add {name}.")
    if kind == "literal_error":
        words = item["ctx"]["expected"].replace("'", "")
        return error(path, f"`{name}` must be {words}", f"Write one of them: {words}." if " or " in words else f"Write {words}.")
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return error(path, f"`{name}` {words} {_bound(location, item['ctx'][key])}", f"Choose another value for {name}.")
    if kind == "value_error":
        return error(path, item["msg"].removeprefix("Value error, "), f"Correct {name}.")
    if kind == SCALAR:
        text = item["msg"]
        fix = 'Put it in quotes, like "0.05".' if "decimal string" in text else f"Correct {name}; docs/configuration.md describes it."
        return error(path, f"`{name}` {text}" if text.startswith("must ") else f"`{name}`: {text}", fix)
    return error(path, f"`{name}` {_SHAPES.get(kind, 'is not of the right kind')}", f"Correct {name}; docs/configuration.md describes it.")


def _name(location: tuple[str | int, ...]) -> str:
    """How people call it: its key, or the entry of a list: `limits[0]`."""
    if not location:
        return "the file"
    last = location[-1]
    return f"{location[-2]}[{last}]" if isinstance(last, int) and len(location) > 1 else str(last)


def _bound(location: tuple[str | int, ...], bound: Any) -> str:
    """The bound in the unit in which the value is written."""
    last = location[-1] if location else ""
    if last in ("cost", "input", "output"):
        return format_money(int(bound))
    if last in ("drain", "key_max_age", "key_max_stale", "lease", "settle_wait", "keep"):
        return format_duration(int(bound))
    return str(int(bound))


def _remedy(loc: tuple[str | int, ...]) -> str:
    known = known_names(loc)
    meant = closest(str(loc[-1]), known)
    if meant is not None:
        return f"Did you mean `{meant}`?"
    return f"Known here: {', '.join(known)}." if known else "Remove it."


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)), None)


def known_names(loc: tuple[str | int, ...]) -> list[str]:
    """Names that the schema knows where the last part of a validator's location stands, in its order."""
    node: Any = Settings
    own_name = False
    for part in loc[:-1]:
        if part in _MEMBERS:
            node = _MEMBERS[part]
        elif own_name or isinstance(part, int):  # a name of the user's own, such as a tier's, or an index
            own_name = False
        else:
            annotation = _fields(node)[str(part)].annotation
            own_name = get_origin(annotation) is Mapping
            node = _node_in(annotation)
    return list(_fields(node))


def _fields(node: Any) -> dict[str, Any]:
    return {field.alias or name: field for name, field in node.model_fields.items()}


def _node_in(annotation: Any) -> Any:
    """The first schema node inside an annotation such as `tuple[LimitSpec, ...]` or `Mapping[str, Tier]`."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((node for inner in get_args(annotation) if (node := _node_in(inner)) is not None), None)

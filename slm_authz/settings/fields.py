"""The kinds of scalar that the file knows: how each is written, counted and refused. Enters: plain YAML values. Leaves: typed values.

Refusals are sentences for people that never repeat the value: it may be a secret. Durations are milliseconds, sizes bytes,
money nanos, and every integer stays below 2**53 (see `slm_authz.units`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from slm_authz.units import MAX_COUNT, parse_duration, parse_money, parse_size

SCALAR: Final = "scalar"
_DIGITS: Final = re.compile(r"-?[0-9]{1,18}")


class Resolved(str):
    """Text that came from `{env: NAME}` or `{file: PATH}`: never shown, and a number where one is expected."""

    __slots__ = ()


def _whole(value: object) -> object:
    if isinstance(value, Resolved) and _DIGITS.fullmatch(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number, written in plain digits without quotes")
    return value


def _number(value: object) -> object:
    if isinstance(value, Resolved):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("must be a number")
    return value


def _text(value: object) -> object:
    if isinstance(value, (bool, int, float)):
        raise ValueError("must be text: put it in quotes")
    if not isinstance(value, (str, Path)):
        raise ValueError("must be text")
    if not str(value):
        raise ValueError("must not be empty")
    return value


def _counted(parse: Callable[[Any], int]) -> Callable[[object], object]:
    def count(value: object) -> object:
        if not isinstance(value, (str, int, float)):
            raise ValueError("must be a single value")
        return parse(value)

    return count


def _read(by: Callable[[object], object]) -> BeforeValidator:
    """A validator whose refusals are told from those of whole entries by their type: SCALAR."""

    def read(value: object) -> object:
        try:
            return by(value)
        except ValueError as wrong:
            raise PydanticCustomError(SCALAR, "{text}", {"text": str(wrong)}) from None

    return BeforeValidator(read)


def _described(*examples: str) -> dict[str, Any]:
    return {"type": ["string", "integer"], "examples": list(examples)}


Duration = Annotated[int, Field(ge=0, le=MAX_COUNT, json_schema_extra=_described("30d", "90s", "250ms")), _read(_counted(parse_duration))]
Size = Annotated[int, Field(ge=0, le=MAX_COUNT, json_schema_extra=_described("4MiB")), _read(_counted(parse_size))]
Money = Annotated[int, Field(ge=0, le=MAX_COUNT, json_schema_extra=_described("0.05")), _read(_counted(parse_money))]
Budget = Annotated[int, Field(ge=1, le=MAX_COUNT, json_schema_extra=_described("1.00")), _read(_counted(parse_money))]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT), _read(_whole)]
Positive = Annotated[int, Field(ge=1, le=MAX_COUNT), _read(_whole)]
Hops = Annotated[int, Field(ge=1, le=32), _read(_whole)]
Status4xx = Annotated[int, Field(ge=400, le=499), _read(_whole)]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _read(_number)]
Text = Annotated[str, _read(_text)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$"), _read(_text)]
FilePath = Annotated[Path, _read(_text)]
Version = Annotated[Literal[1], _read(_whole)]
TokensPerByte = Annotated[Literal[1, 3, 11], _read(_whole)]
Outage = Literal["deny", "local", "allow"]
By = Literal["key", "client", "tenant", "address", "model"]
Per = Literal["second", "minute", "hour", "day", "week", "month"]


class Node(BaseModel):
    """Base of every mapping in the file: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=False, validate_by_alias=True)

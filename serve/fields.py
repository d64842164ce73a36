"""A feature of the contract as msgspec decodes it: its type and its bounds, and the words for what breaks them."""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa

from conf.errors import RaycycleError, some
from tables.contract import Column

_INT64 = -(2**63), 2**63 - 1
_JSON: list[tuple[Any, Any, str]] = [
    (pa.types.is_boolean, bool, "true or false"),
    (pa.types.is_integer, int, "a whole number"),
    (pa.types.is_floating, float, "a number"),
    (pa.types.is_date, dt.date, "a date as 2024-01-31"),
    (pa.types.is_timestamp, dt.datetime, "a time as 2024-01-31T09:30:00Z"),
    (lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind), str, "text"),
]
_OUTSIDE = re.compile(r"^Expected `(?:int|float)` ([<>])= (\S+)$")
_JSON_WORDS = {"array": "a list", "object": "an object"}


@dataclass(frozen=True)
class Field:
    """`json` is the type for msgspec, with what the contract bounds; `noun` the type in words, `expected` both."""

    name: str
    json: Any
    noun: str
    expected: str
    nullable: bool


def field_of(of: pa.Field, column: Column) -> Field:
    for test, kind, noun in _JSON:
        if test(of.type):
            bounded, expected = _bounded(kind, noun, column)
            return Field(of.name, bounded | None if column.nullable else bounded, noun, expected, column.nullable)
    raise RaycycleError(f"column {of.name!r} has a type that JSON cannot carry", value=str(of.type))


def _bounded(kind: Any, noun: str, column: Column) -> tuple[Any, str]:
    """The type with the contract's bounds as msgspec's own, so that they are checked while it decodes; and both in words."""
    obeyed = column.severity != "warn"
    if obeyed and column.allowed is not None and kind in (int, str):
        return _one_of(kind, column, column.allowed)
    if kind is str:
        # An empty text is a null, so it is none where nulls are refused.
        matching = f" that matches {column.pattern}" if obeyed and column.pattern else ""
        return (str if column.nullable else Annotated[str, msgspec.Meta(min_length=1)]), noun + matching
    low, high = (column.min, column.max) if obeyed else (None, None)
    if kind is int:
        ge, le = (min(max(bound, _INT64[0]), _INT64[1]) for bound in _whole(low, high))
        within = _within(None if low is None else ge, None if high is None else le)
        return Annotated[int, msgspec.Meta(ge=ge, le=le)], noun + within
    if kind is float and (low is not None or high is not None):
        return Annotated[float, msgspec.Meta(ge=low, le=high)], noun + _within(low, high)
    return kind, noun


def _whole(low: float | None, high: float | None) -> tuple[int, int]:
    return (_INT64[0] if low is None else math.ceil(low)), (_INT64[1] if high is None else math.floor(high))


def _one_of(kind: Any, column: Column, allowed: list[str]) -> tuple[Any, str]:
    values: list[Any] = [text for text in allowed if text]
    if kind is int:
        low, high = _whole(column.min, column.max)
        # As the contract compares them: by how a whole number is written.
        values = [int(text) for text in values if re.fullmatch(r"0|-?[1-9]\d{0,18}", text) and low <= int(text) <= high]
    expected = f"one of {some(map(str, values), 20)}"
    if kind is str and column.nullable:
        values.append("")
    return (Literal[tuple(values)] if values else type(None)), expected


def _within(low: float | None, high: float | None) -> str:
    if low is None:
        return "" if high is None else f" up to {_plainly(high)}"
    return f" from {_plainly(low)}" + (" on" if high is None else f" to {_plainly(high)}")


def _plainly(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) < 1e16 else str(number)


def wrong(said: str, field: Field | None = None) -> str:
    """What msgspec says is wrong, in the words of the contract."""
    if match := _OUTSIDE.match(said):
        return f"is {'below' if match[1] == '>' else 'above'} {_plainly(float(match[2])) if '.' in match[2] else match[2]}"
    if said.startswith("Invalid enum value"):
        return "is not an allowed value"
    if " of length >= " in said:
        return "is empty"
    if said.startswith("Number out of range"):
        return "is out of range"
    if said.endswith("got `null`"):
        return "is null"
    if field:
        return f"is not {field.noun}"
    match = re.match(r"Expected `(\w+)", said)
    return f"is not {_JSON_WORDS.get(match[1], 'what it should be') if match else 'what it should be'}"

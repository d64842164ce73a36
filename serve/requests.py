"""A request body becomes typed rows: one msgspec pass on the good path, and a second, slower look that names what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from types import GenericAlias
from typing import Any

import msgspec
import pyarrow as pa
from msgspec import UNSET, UnsetType

from conf.errors import RaycycleError, some, suggest
from serve.errors import HttpError
from serve.fields import field_of, wrong
from serve.row_checks import RowChecks
from tables.contract import Contract
from tables.privacy.treatment import is_private

Row = tuple[Any, ...]

_KEY = re.compile(rb'"[ \t\r\n]*:')
_AT_ROW = re.compile(r"^\$\.rows\[(\d+)\](?:\.(.*))?$", re.DOTALL)
_AT_COLUMN = re.compile(r"^\$\.columns(?:\.(.*?))?(?:\[(\d+)\])?$", re.DOTALL)
# The path in msgspec's message comes last; what stands before it may quote the body.
_SAID = re.compile(r"^(.*) - at `(\$.*)`$", re.DOTALL)
_SHOWN, _FEW = 80, 32
_PRIVATE = "<not shown>"  # clients log what they are answered


class RowDecoder:
    """Decodes bodies for one contract. Columns of the contract that are not features may come along, and are ignored."""

    def __init__(self, contract: Contract, schema: pa.Schema) -> None:
        self.schema = schema
        self.fields = {each.name: field_of(each, contract.columns[each.name]) for each in schema}
        self._checks = RowChecks(contract, schema)
        self._has_text = any(field.noun == "text" for field in self.fields.values())
        self._private = {name for name in self.fields if is_private(contract.columns[name])}
        self.ignored = [name for name in contract.columns if name not in self.fields]
        self._width, self._struct_type = len(schema), pa.struct(list(schema))
        names = [*self.fields, *self.ignored]
        rename = {f"f{index}": name for index, name in enumerate(names)}
        try:
            row = self._struct("Row", rename, lambda field: field.json, ignored=msgspec.Raw)
            columns = self._struct("Columns", rename, lambda field: GenericAlias(list, (field.json,)), ignored=msgspec.Raw)
        except ValueError as error:
            raise RaycycleError(
                f"a column name cannot be a JSON key ({error})", value=contract.name, next="rename it in the source"
            ) from error
        body = msgspec.defstruct(
            "Body",
            [("rows", GenericAlias(list, (row,)) | UnsetType, UNSET), ("columns", columns | UnsetType, UNSET)],
            forbid_unknown_fields=True,
        )
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(body).decode

    def _struct(self, name: str, rename: dict[str, str], kind: Any, ignored: Any) -> Any:
        fields: list[Any] = []
        for key, column in rename.items():
            if field := self.fields.get(column):
                required = not field.nullable
                of = kind(field)
                fields.append((key, of) if required else (key, of | UnsetType, UNSET))
            else:
                fields.append((key, ignored | UnsetType, UNSET))
        return msgspec.defstruct(name, fields, rename=rename, forbid_unknown_fields=True, kw_only=True, gc=False)

    def decode(self, body: bytes, *, checked: bool = True) -> list[Row]:
        """The rows of `body`, typed and in the order of the schema; `checked` against patterns and rules. Raises HttpError 400 or 422."""
        try:
            decoded = self._decode(body)
        except msgspec.ValidationError as error:
            raise self._explain(body, str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HttpError(400, f"the body is not JSON ({error})", allowed='{"rows": [{"column": value, ...}, ...]}') from None
        except RecursionError:
            raise HttpError(400, "the body is nested too deeply", allowed="plain values in rows or columns") from None
        if (decoded.rows is UNSET) == (decoded.columns is UNSET):
            raise HttpError(422, "the body holds neither rows nor columns, or both", allowed='{"rows": [...]} or {"columns": {...}}')
        if decoded.rows is not UNSET:
            rows, keys = self._from_rows(decoded.rows)
        else:
            rows, keys = self._from_columns(decoded.columns)
        if not rows:
            raise HttpError(422, "the body holds no row", allowed="at least one row")
        if len(_KEY.findall(body)) != keys + 1:
            _refuse_duplicates(body)
        if checked:
            self._checks.refuse(rows)
        return rows

    def batch(self, rows: Sequence[Row]) -> pa.RecordBatch:
        """The rows as Arrow: a few by one struct array, many column by column (each is three times faster at its end)."""
        if len(rows) <= _FEW:
            structs = pa.array([dict(zip(self.fields, row, strict=True)) for row in rows], self._struct_type)
            return pa.RecordBatch.from_struct_array(structs)
        arrays = [pa.array(values, each.type) for values, each in zip(zip(*rows, strict=True), self.schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _from_rows(self, decoded: Iterable[Any]) -> tuple[list[Row], int]:
        rows, keys = [], 0
        for each in decoded:
            values = msgspec.structs.astuple(each)
            missing = values.count(UNSET)
            keys += len(values) - missing
            row = values[: self._width]
            if missing and UNSET in row:
                row = tuple(None if value is UNSET else value for value in row)
            if self._has_text and "" in row:
                # An empty text is a missing one, as it is in a file.
                row = tuple(None if value == "" else value for value in row)
            rows.append(row)
        return rows, keys

    def _from_columns(self, decoded: Any) -> tuple[list[Row], int]:
        values = msgspec.structs.astuple(decoded)
        given = {name: column for name, column in zip(self.fields, values, strict=False) if column is not UNSET}
        counts = {name: len(column) for name, column in given.items()}
        if len(set(counts.values())) > 1:
            raise HttpError(422, "the columns have different numbers of rows", value=_shown(counts), allowed="lists of one length")
        count = next(iter(counts.values()), 0)
        columns = [given.get(name) or [None] * count for name in self.fields]
        columns = [
            [value or None for value in column] if field.noun == "text" and "" in column else column
            for column, field in zip(columns, self.fields.values(), strict=True)
        ]
        return list(zip(*columns, strict=True)) if count else [], len(values) - values.count(UNSET)

    def _explain(self, body: bytes, message: str) -> HttpError:
        """The row, field and value behind msgspec's message, and what the contract allows."""
        match = _SAID.match(message)
        said, path = match.groups() if match else (message, "$")
        row, field = self._place(path)
        where = f"rows[{row}]" if row is not None else path.removeprefix("$.") if path in ("$.rows", "$.columns") else ""
        if match := re.search(r"unknown field `(.*)`$", said, re.DOTALL):
            known = list(self.fields) if where else ["rows", "columns"]
            return HttpError(
                422,
                f"{where or 'the body'} has an unknown field{suggest(match[1], known)}",
                value=_shown(match[1]),
                allowed=some([*known, *(self.ignored if where else ())], 20),
            )
        if match := re.search(r"missing required field `(.*)`$", said, re.DOTALL):
            return HttpError(422, f"{where} has no {match[1]!r}", allowed=self._expected(match[1]))
        if field in self.fields and said.startswith("Expected `array`"):
            return HttpError(422, f"columns.{field} is not a list", allowed=f"a list, each value {self._expected(field)}")
        if field in self.fields:
            value = _PRIVATE if field in self._private else _shown(_find(body, row, field))
            said = wrong(said, self.fields[field])
            return HttpError(422, f"{where or 'columns'}.{field} {said}", value=value, allowed=self._expected(field))
        form = '{"rows": [{"column": value, ...}, ...]} or {"columns": {"column": [value, ...], ...}}'
        return HttpError(422, f"{where or 'the body'} {wrong(said)}", allowed=form)

    def _place(self, path: str) -> tuple[int | None, str]:
        if match := _AT_ROW.match(path):
            return int(match[1]), match[2] or ""
        if match := _AT_COLUMN.match(path):
            return (int(match[2]) if match[2] else None), match[1] or ""
        return None, ""

    def _expected(self, name: str) -> str:
        field = self.fields.get(name)
        return f"{field.expected}{' or null' if field.nullable else ''}" if field else ""

    def describe(self) -> list[dict[str, Any]]:
        return [{"name": each.name, "expected": each.expected, "nullable": each.nullable} for each in self.fields.values()]


def _refuse_duplicates(body: bytes) -> None:
    """Called when the number of keys is not the number of fields: a key came twice, or a string looks like a key."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise HttpError(400, "a key occurs twice in one object", value=_shown(twice), allowed="each key once")
        return dict(pairs)

    try:
        json.loads(body, object_pairs_hook=unique, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, f"the body is not JSON ({error})") from None


def _find(body: bytes, row: int | None, field: str) -> Any:
    try:
        whole = json.loads(body, parse_int=_number)
        if "columns" not in whole:
            return whole["rows"][row][field]
        return whole["columns"][field] if row is None else whole["columns"][field][row]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _number(digits: str) -> int | str:
    return int(digits) if len(digits) < 30 else digits


def _shown(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

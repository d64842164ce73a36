"""What a contract asks of a row that decoding alone cannot: that texts match their patterns, and the rules over several features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serve.errors import HttpError
from tables.checking import feature_rules, matches
from tables.contract import Contract
from tables.rules import evaluate, names_in


class RowChecks:
    """The patterns and rules of `contract` that a row can break; those that only warn are not asked."""

    def __init__(self, contract: Contract, schema: pa.Schema) -> None:
        columns = {name: contract.columns[name] for name in schema.names}
        self.patterns = {name: column.pattern for name, column in columns.items() if column.pattern and column.severity != "warn"}
        self.rules = [rule for rule in feature_rules(contract) if rule.severity != "warn"]
        needed = set(self.patterns).union(*(names_in(rule.check) for rule in self.rules))
        self._schema = pa.schema([each for each in schema if each.name in needed])
        self._places = [place for place, name in enumerate(schema.names) if name in needed]

    def refuse(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Raise HttpError 422, naming the first row that breaks a pattern, or else a rule."""
        if not (self.patterns or self.rules):
            return
        arrays = [pa.array([row[place] for row in rows], each.type) for place, each in zip(self._places, self._schema, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        if not arrays:
            table = pa.table({"row": range(len(rows))})  # for rules over constants alone
        for name, pattern in self.patterns.items():
            if (row := _first_broken(matches(pattern, table.column(name).combine_chunks()))) is not None:
                raise HttpError(422, f"rows[{row}].{name} does not match its pattern", allowed=pattern)
        for rule in self.rules:
            if (row := _first_broken(evaluate(rule.check, table))) is not None:
                raise HttpError(422, f"rows[{row}] breaks the rule {rule.name!r}", allowed=rule.check)


def _first_broken(kept: pa.Array) -> int | None:
    return pc.index(kept, False).as_py() if kept.false_count else None

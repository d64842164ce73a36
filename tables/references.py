"""Rows that refer to another table: whether what they name is there, by 64-bit hashes of it held in order."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from conf.errors import UsageError, some
from tables.casting import cast, one_array
from tables.contract import Contract
from tables.promises import Reference
from tables.rows import Hashes, row_hashes


def index_of(contract: Contract, reference: Reference, tables: Iterable[pa.Table]) -> Hashes:
    """uint64, sorted, each once: what the other table, given in pieces, has to refer to; 8 bytes for each of its distinct keys.

    Two keys of one hash are taken for the same: with n keys there, a wrong one passes with a chance of n in 2**64.
    """
    index = np.zeros(0, np.uint64)
    try:
        for table in tables:
            index = np.union1d(index, _keys(contract, reference, table))
    except pa.ArrowInvalid as error:  # a reader that is asked for a column which is not there
        raise _unknown(reference, str(reference.to), str(error).partition("\n")[0]) from None
    return index


def _unknown(reference: Reference, value: str, known: str) -> UsageError:
    return UsageError(
        f"the contract refers to a column that {reference.table} has not", value=value, allowed=known, next="correct references.to"
    )


def _keys(contract: Contract, reference: Reference, table: pa.Table) -> Hashes:
    arrays = {}
    for number, (name, to) in enumerate(zip(reference.columns, reference.to, strict=True)):
        if to not in table.column_names:
            raise _unknown(reference, to, some(table.column_names))
        # As the type of the column that refers: 7 written as text elsewhere is the same key.
        arrays[str(number)] = cast(one_array(table.column(to)), contract.columns[name].type)[0]
    return row_hashes(pa.table(arrays).drop_null(), list(arrays))


def without_a_match(reference: Reference, typed: pa.Table, index: Hashes) -> pa.Array:
    """bool [rows]: rows whose values the other table lacks. A row that lacks one of them refers to nothing."""
    names = [str(number) for number in range(len(reference.columns))]
    columns = typed.select(reference.columns).rename_columns(names)
    hashes, place = np.unique(row_hashes(columns, names), return_inverse=True)
    at = np.searchsorted(index, hashes)
    found = index[np.minimum(at, len(index) - 1)] == hashes if len(index) else np.zeros(len(hashes), bool)
    whole = np.ones(typed.num_rows, bool)
    for name in names:
        if columns.column(name).null_count:
            whole &= np.asarray(columns.column(name).is_valid())
    return pa.array(~found[place] & whole)

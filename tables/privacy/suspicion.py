"""Columns that nobody has classified and that look personal: `ingest` stops before it keeps any of their values.

The sample is that of the smallest hashes among all distinct values (bottom-k, Cohen 1997): the same whatever blocks the rows come in.
"""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from conf.errors import UsageError
from tables.contract import Column, Contract
from tables.privacy.detection import Values, column_kind, named_kind
from tables.privacy.treatment import default_treatment

KEPT = 256
MAX_CHARACTERS = 200
_CARD_DIGITS = 10**12


class Sample(msgspec.Struct):
    """Of one column: how many values it has, and those of the smallest hashes, as text."""

    known: int = 0
    smallest: dict[int, str] = {}

    @property
    def distinct(self) -> int:
        """Exact where all were kept, else estimated from how closely the smallest hashes lie."""
        if len(self.smallest) < KEPT:
            return len(self.smallest)
        return min(self.known, int((KEPT - 1) / (max(self.smallest) + 1) * 2**64))


class Suspicion(msgspec.Struct):
    """What is known of the columns without a class after some rows; the sum of two is that of all their rows.

    It holds raw values: it goes into no file.
    """

    columns: dict[str, Sample] = {}

    def __add__(self, other: Suspicion) -> Suspicion:
        names = sorted(self.columns.keys() | other.columns.keys())
        return Suspicion({name: _merged(self.columns.get(name, Sample()), other.columns.get(name, Sample())) for name in names})


def _merged(one: Sample, other: Sample) -> Sample:
    smallest = sorted({**one.smallest, **other.smallest}.items())[:KEPT]
    return Sample(one.known + other.known, dict(smallest))


def suspicion(contract: Contract, batch: pa.Table) -> Suspicion:
    """What one batch of rows adds; nothing, and no work, where every column has a class."""
    found = {}
    for name, column in contract.columns.items():
        if column.privacy_class is None and name in batch.column_names and _may_be_personal(name, column):
            found[name] = _sample(name, column, batch.column(name).combine_chunks())
    return Suspicion(found)


def _may_be_personal(name: str, column: Column) -> bool:
    if column.type in ("date", "timestamp"):
        return named_kind(name) == "birth dates"
    return column.type in ("string", "int64")


def _sample(name: str, column: Column, array: pa.Array) -> Sample:
    values = array.drop_null()
    if column.type == "int64" and pa.types.is_integer(values.type) and not named_kind(name):
        values = values.filter(pc.greater_equal(values, _CARD_DIGITS))  # shorter ones have no form to be known by
    unique = values.cast(pa.string()).unique()
    hashes = _hashes(unique)
    smallest = np.argpartition(hashes, KEPT)[:KEPT] if len(hashes) > KEPT else np.arange(len(hashes))
    texts = pc.utf8_slice_codeunits(unique.take(pa.array(smallest)), 0, MAX_CHARACTERS).to_pylist()
    return Sample(len(values), dict(sorted(zip(hashes[smallest].tolist(), texts, strict=True))))


def _hashes(texts: pa.Array) -> NDArray[np.uint64]:
    """uint64 of each text, by SipHash: an eighth of the time of `row_hashes`, and nothing keeps them beyond one ingest."""
    import pandas as pd

    return pd.util.hash_array(texts.to_numpy(zero_copy_only=False).astype(object), categorize=False)


def suspects(contract: Contract, merged: Suspicion) -> dict[str, str]:
    """The columns without a class that look personal, and like what."""
    found: dict[str, str] = {}
    for name, sample in sorted(merged.columns.items()):
        column = contract.columns[name]
        shown = [text for _, text in sorted(sample.smallest.items())]
        values = Values(shown, sample.known, sample.distinct, column.type == "string", column.type in ("date", "timestamp"))
        if kind := column_kind(name, values):
            found[name] = kind
    return found


def refuse_unclassified(contract: Contract, merged: Suspicion, dataset: str | None = None) -> None:
    """Raise UsageError, with the command that settles it, while a column that looks personal has no class."""
    found = suspects(contract, merged)
    if not found:
        return
    said = "; ".join(f"{name} looks like {kind}" for name, kind in found.items())
    answers = " ".join(_quoted(f"{name}={proposed(contract.columns[name])}") for name in found)
    raise UsageError(
        f"nobody has said whether these columns are personal, so nothing was kept: {said}",
        allowed="a class for each: public, internal, personal, sensitive, secret",
        next=f"raycycle data classify {dataset or contract.name} {answers}  (or COLUMN=internal where it is not personal)",
    )


def proposed(column: Column) -> str:
    """The class and treatment of a column that looks personal, as `classify` takes them: not kept unless it is learned from."""
    return f"personal:{default_treatment(column)}".rstrip(":")


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w=:,.+-]+", word) else "'" + word.replace("'", "'\\''") + "'"

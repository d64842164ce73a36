"""Hashes of rows that depend on nothing but their content: stable keys for splits and order, and digests of tables and arrays."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_NULL = np.uint64(0x9E3779B97F4A7C15)
_NAN = np.uint64(0x7FF8000000000000)
_BLOCK_ROWS = 1 << 18
_CACHED_ROWS = 1 << 14
_STEPS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST_SHIFT = np.uint64(31)
_REMEMBERED = 1 << 16


def _mix(x: Hashes, spare: Hashes | None = None) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection on 64 bits that spreads every input bit. Done in place."""
    spare = np.empty_like(x) if spare is None else spare
    for shift, factor in _STEPS:
        x ^= np.right_shift(x, shift, out=spare)
        x *= factor
    x ^= np.right_shift(x, _LAST_SHIFT, out=spare)
    return x


@functools.lru_cache(maxsize=_REMEMBERED)
def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _seeds(texts: list[str]) -> Hashes:
    if len(texts) <= _REMEMBERED:
        return np.array([_seed(text) for text in texts], np.uint64)
    # So many would push each other out of the memory of `_seed`.
    digests = b"".join([hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts])
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _values(array: pa.Array) -> Hashes:
    """One uint64 per value: equal for equal values whatever the width, chunking or dictionary of the array."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_temporal(array.type):
        array = array.cast(pa.int32()) if pa.types.is_date32(array.type) else array.cast(pa.int64())
    if pa.types.is_floating(array.type):
        floats = _filled(array.cast(pa.float64()), 0.0) + 0.0  # -0.0 becomes 0.0
        bits = floats.view(np.uint64)
        if (unknown := np.isnan(floats)).any():
            bits[unknown] = _NAN
    elif pa.types.is_integer(array.type) or pa.types.is_boolean(array.type):
        bits = _filled(array.cast(pa.int64()), 0).view(np.uint64)
    else:
        coded = array.cast(pa.string()).dictionary_encode()
        bits = np.take(_seeds(coded.dictionary.to_pylist() or [""]), _filled(coded.indices, 0))
    if array.null_count:
        bits = np.where(np.asarray(array.is_null()), _NULL, bits)
    return bits


def _filled(array: pa.Array, value: float) -> NDArray[Any]:
    """Without copying where there is nothing to fill."""
    return np.asarray(array.fill_null(value) if array.null_count else array)


def row_hashes(table: pa.Table, columns: Sequence[str], salt: str = "") -> Hashes:
    """uint64 [rows] of the content of `columns`; the order of columns does not matter, their names do."""
    total = np.full(table.num_rows, np.uint64(_seed(f"salt:{salt}")))
    mixed, spare = np.empty((2, _CACHED_ROWS), np.uint64)
    with np.errstate(over="ignore"):
        for name in columns:
            values, seed = _values(table.column(name).combine_chunks()), np.uint64(_seed(f"column:{name}"))
            for start in range(0, len(total), _CACHED_ROWS):  # so few that all stays in the processor's cache
                part = total[start : start + _CACHED_ROWS]
                x = np.bitwise_xor(values[start : start + _CACHED_ROWS], seed, out=mixed[: len(part)])
                part += _mix(x, spare[: len(part)])
        return _mix(total)


def equal_to_the_one_before(table: pa.Table, columns: Sequence[str], order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool [rows]: in this order, whether each row equals the one before it in all `columns`. Rows of the same hash may not."""
    equal = np.arange(len(order)) > 0
    for name in columns:
        array = table.column(name).combine_chunks()
        values, missing = _values(array)[order], np.asarray(array.is_null())[order]
        equal[1:] &= (values[1:] == values[:-1]) & (missing[1:] == missing[:-1])
    return equal


@dataclass(frozen=True)
class TableDigest:
    """A digest of a set of rows (with repeats), independent of their order, files and compression: sums of row hashes modulo 2**64.

    Two differently salted sums make 128 bits; they guard against accident and drift, while files are guarded by SHA-256.
    """

    rows: int = 0
    first: int = 0
    second: int = 0

    @classmethod
    def of(cls, table: pa.Table, columns: Sequence[str] | None = None) -> TableDigest:
        names = list(columns or table.column_names)
        first = row_hashes(table, names, "first")
        # The second lane re-mixes the first with another salt, which costs a tenth of hashing the columns twice.
        with np.errstate(over="ignore"):
            second = _mix(first ^ np.uint64(_seed("lane:second")))
            return cls(table.num_rows, int(first.sum(dtype=np.uint64)), int(second.sum(dtype=np.uint64)))

    def __add__(self, other: TableDigest) -> TableDigest:
        return TableDigest(self.rows + other.rows, (self.first + other.first) % 2**64, (self.second + other.second) % 2**64)

    def __sub__(self, other: TableDigest) -> TableDigest:
        return TableDigest(self.rows - other.rows, (self.first - other.first) % 2**64, (self.second - other.second) % 2**64)

    def __str__(self) -> str:
        return f"rows1:{self.rows}:{self.first:016x}{self.second:016x}"

    @classmethod
    def parse(cls, text: str) -> TableDigest:
        _, rows, lanes = text.split(":")
        return cls(int(rows), int(lanes[:16], 16), int(lanes[16:], 16))


def ordered_digest(table: pa.Table, columns: Sequence[str] | None = None) -> str:
    """SHA-256 of the rows in their order, with names and types of the columns; chunks and dictionaries make no difference."""
    names = list(columns or table.column_names)
    header = [f"{name}\0{_plain_type(table.schema.field(name).type)}\0" for name in names]
    digest = hashlib.sha256(f"ordered1\0{table.num_rows}\0{len(names)}\0{''.join(header)}".encode())
    for start in range(0, table.num_rows, _BLOCK_ROWS):
        digest.update(row_hashes(table.slice(start, _BLOCK_ROWS), names, "ordered").astype("<u8").tobytes())
    return digest.hexdigest()


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def array_digest(*arrays: NDArray[Any]) -> str:
    """SHA-256 of arrays of numbers: type, shape and bytes of each, in C order and little endian whatever they are in memory."""
    digest = hashlib.sha256(f"arrays1\0{len(arrays)}\0".encode())
    for array in arrays:
        if array.dtype.kind not in "biufc":
            raise TypeError(f"an array of {array.dtype} has no digest; arrays of numbers have")
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{plain.dtype.str}\0{array.shape}\0".encode())
        digest.update(plain.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def sort_order(keys: Hashes, content: Hashes) -> NDArray[np.int64]:
    """The canonical order of rows: by key hash, and rows of one key by content."""
    return np.lexsort((content, keys))

"""How the rows of a table meet another one on Ray: a small one goes to each worker, of a large one each worker gets some keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from conf.errors import UsageError
from tables.casting import ColumnType
from tables.rows import ordered_digest, row_hashes
from tables.sources.partners import as_key
from tables.sources.parts import KEY, ORIGIN, Part, key_kinds

if TYPE_CHECKING:
    import ray.data

_WHOLE: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
_BUCKETS_PER_PARTITION = 4
_BUCKET, _SIDE, _ROWS = "bucket", "side", "rows"
ROWS, TABLE = 0, 1


class Tally:
    """An actor that adds up what the tasks found. A task that is tried again finds the same, and is counted once."""

    def __init__(self) -> None:
        self._notes: dict[str, Mapping[str, int]] = {}

    def note(self, token: str, notes: Mapping[str, int]) -> None:
        self._notes[token] = notes

    def total(self) -> dict[str, int]:
        counted = sum((Counter(notes) for notes in self._notes.values()), Counter[str]())
        return dict(sorted(counted.items()))


@dataclass(frozen=True)
class Means:
    """A table of up to `small` bytes goes to each worker, a larger one by its keys into `partitions`. Neither can change a row."""

    small: int
    partitions: int
    tally: Any


def together(rows: ray.data.Dataset, there: ray.data.Dataset, part: Part, means: Means) -> ray.data.Dataset:
    """The rows with what `part` adds of the table `there`, which is read at once."""
    import ray

    bare = part.bare
    taken = there.map_batches(partial(_taken, part=bare, tally=means.tally), **_WHOLE).materialize()
    table, schema = _one_type(taken, part)
    condense = bare.condenses
    if condense and _size(table) > means.small:
        table, schema = _one_type(_by_keys({TABLE: table}, schema, bare, means).materialize(), part)
        condense = False
    if _size(table) > means.small:
        return _by_keys({ROWS: rows, TABLE: table}, schema, bare, means)
    whole = _whole(ray.get(table.to_arrow_refs()), schema)
    index = ray.put(bare.indexed(bare.condensed(whole, key_kinds(whole, KEY, part.said)) if condense else whole))
    return rows.map_batches(partial(_met, part=bare, index=[index], tally=means.tally), **_WHOLE)


def _size(table: ray.data.Dataset) -> int:
    return table.size_bytes() or 0


def _taken(block: pa.Table, part: Part, tally: Any) -> pa.Table:
    notes = Counter[str]()
    taken = part.taken(block, notes)
    _tell(tally, part, block, list(part.pairs.values()), notes)
    return taken


def _met(block: pa.Table, part: Part, index: list[Any], tally: Any) -> pa.Table:
    import ray

    return _meet(block, part, ray.get(index[0]), tally)


def _meet(block: pa.Table, part: Part, index: Any, tally: Any) -> pa.Table:
    notes = Counter[str]()
    met = part.meet(block, index, notes)
    _tell(tally, part, block, list(part.pairs), notes)
    return met


def _tell(tally: Any, part: Part, block: pa.Table, keys: list[str], notes: Counter[str]) -> None:
    """Tell the counts under a name that the same task gives the same block again."""
    import ray

    found = {said: count for said, count in notes.items() if count}
    if not found:
        return
    named = [name for name in ORIGIN if name in block.column_names] or keys
    token = f"{ray.get_runtime_context().get_task_id()}:{part.name}:{ordered_digest(block, named)}"
    ray.get(tally.note.remote(token, found))


def _one_type(table: ray.data.Dataset, part: Part) -> tuple[ray.data.Dataset, pa.Schema]:
    """The read table, and the types that hold what all of its blocks hold."""
    import ray

    schema_of = ray.remote(num_cpus=0)(_schema_of)
    schemas = [found for found in ray.get([schema_of.remote(ref) for ref in table.to_arrow_refs()]) if len(found)]
    if not schemas:
        raise UsageError(f"{part.said}: its source has no rows", next="check the path of its source")
    try:
        return table, pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UsageError(f"{part.said}: parts of its table have different types ({error})", next="types: {column: type}") from None


def _schema_of(block: pa.Table) -> pa.Schema:
    return block.schema if block.num_rows else pa.schema([])


def _whole(blocks: list[pa.Table], schema: pa.Schema) -> pa.Table:
    """The blocks as one table of the `schema`, whatever is in none of them."""
    held = [block for block in blocks if block.num_rows]
    return pa.concat_tables([schema.empty_table(), *held], promote_options="permissive").combine_chunks()


def _by_keys(sides: dict[int, ray.data.Dataset], schema: pa.Schema, part: Part, means: Means) -> ray.data.Dataset:
    """Both sides cut by the hashes of their keys; rows of any columns travel as bytes, since both are shuffled as one."""
    kinds = key_kinds(schema.empty_table(), KEY, part.said)
    cutting = partial(_cut, part=part, kinds=kinds, schema=schema, buckets=means.partitions * _BUCKETS_PER_PARTITION)
    cut = [data.map_batches(partial(cutting, side=side), **_WHOLE) for side, data in sides.items()]
    both = cut[0].union(*cut[1:]) if cut[1:] else cut[0]
    grouped = both.groupby(_BUCKET, num_partitions=means.partitions)
    if ROWS in sides:
        return grouped.map_groups(partial(_bucket_met, part=part, schema=schema, tally=means.tally), batch_format="pyarrow")
    return grouped.map_groups(partial(_bucket_condensed, part=part, kinds=kinds, schema=schema), batch_format="pyarrow")


def _cut(block: pa.Table, part: Part, kinds: list[ColumnType], schema: pa.Schema, side: int, buckets: int) -> pa.Table:
    """A row for each bucket that the block has rows of."""
    if side == TABLE:
        block = _whole([block], schema)
        keys = [as_key(block.column(f"{KEY}{i}"), kind, (), part.said) for i, kind in enumerate(kinds)]
    else:
        keys = part.keys(block, kinds)
    bucket = _buckets(keys, buckets)
    order = np.argsort(bucket, kind="stable")
    found, starts = np.unique(bucket[order], return_index=True)
    ordered = block.take(pa.array(order))
    pieces = [ordered.slice(int(a), int(b - a)) for a, b in zip(starts, [*starts[1:], len(order)], strict=True)]
    packed = pa.array([_packed(piece) for piece in pieces], pa.large_binary())
    return pa.table({_BUCKET: found, _SIDE: pa.array([side] * len(pieces), pa.int8()), _ROWS: packed})


def _buckets(keys: list[pa.Array], buckets: int) -> NDArray[np.int64]:
    """Rows of one key are in one bucket; those without a key meet nobody, and would only make one bucket heavy."""
    table = pa.table({str(i): key for i, key in enumerate(keys)})
    bucket = (row_hashes(table, table.column_names, "bucket") % np.uint64(buckets)).astype(np.int64)
    whole = np.logical_and.reduce([np.asarray(key.is_valid()) for key in keys])
    return np.where(whole, bucket, np.arange(len(bucket)) % buckets)


def _packed(piece: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, piece.schema) as writer:
        writer.write_table(piece)
    return sink.getvalue().to_pybytes()


def _pieces(group: pa.Table, side: int) -> Iterator[pa.Table]:
    for of, packed in zip(group.column(_SIDE).to_pylist(), group.column(_ROWS), strict=True):
        if of == side:
            yield pa.ipc.open_stream(packed.as_buffer()).read_all()


def _bucket_condensed(group: pa.Table, part: Part, kinds: list[ColumnType], schema: pa.Schema) -> pa.Table:
    return part.condensed(_whole(list(_pieces(group, TABLE)), schema), kinds)


def _bucket_met(group: pa.Table, part: Part, schema: pa.Schema, tally: Any) -> Iterator[pa.Table]:
    index = part.indexed(_whole(list(_pieces(group, TABLE)), schema))
    for piece in _pieces(group, ROWS):
        yield _meet(piece, part, index, tally)

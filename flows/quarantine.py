"""Rows that were not let in: look at them, take them out to be mended, and let them in again.

$ raycycle data quarantine flights --out bad.csv && raycycle data reingest flights bad.csv
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from cluster.progress import Progress
from cluster.store import Store, publish, safe_name
from conf.errors import UsageError, some
from flows.ingest import Ingest, Ingested, alone, free_name
from ledger import digests
from tables.contract import Contract
from tables.duplicates import Once
from tables.privacy.keys import Keyring
from tables.privacy.treatment import pinned, treatments

if TYPE_CHECKING:
    import ray.data

ID, RULE, REASON = "_id", "_rule", "_reason"
MARKS = (ID, RULE, REASON)
HIDDEN = "***"
# Of these the text that could not be read is not kept, so there is nothing to let in.
UNREADABLE = "unreadable"


def files_of(store: Store, name: str) -> list[Path]:
    return sorted((store.quarantine / safe_name("dataset", name)).glob("rows1-*.parquet"))


def tables_of(store: Store, name: str) -> Iterator[tuple[Path, pa.Table]]:
    """Each file with its rows as text, as they were read. `_id` is a row's own: equal rows are numbered, since it does not matter which."""
    seen: Counter[str] = Counter()
    for file in files_of(store, name):
        table = as_text(pq.read_table(file, partitioning=None))
        ids = []
        for row in table.to_pylist():
            digest = hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest()[:16]
            seen[digest] += 1
            ids.append(f"{digest}-{seen[digest]}")
        yield file, table.add_column(0, ID, pa.array(ids, pa.string()))


def as_text(table: pa.Table) -> pa.Table:
    """Files may hold a column in different types, and a mended one comes back as text anyway."""
    return pa.table({name: _text(table.column(name)) for name in table.column_names})


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return pa.chunked_array([pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())])
    return column.cast(pa.string())


def counts(store: Store, name: str) -> dict[str, int]:
    """Rows by the rule that they broke, the most frequent first."""
    rules: Counter[str] = Counter()
    for file in files_of(store, name):
        rules.update(pq.read_table(file, columns=[RULE], partitioning=None).column(RULE).to_pylist())
    return dict(rules.most_common())


def some_rows(store: Store, name: str, limit: int) -> list[dict[str, Any]]:
    """The first rows of each rule, `limit` in all if there are so many; what nobody may be shown is starred."""
    from flows.versions import contract_of, private_columns
    from tables.snapshots import head

    contract = contract_of(store, name, head(store, name))
    left, found = Counter(_shares(counts(store, name), limit)), []
    for _, table in tables_of(store, name):
        private = private_columns(contract, [each for each in table.column_names if not each.startswith("_")])
        for row in table.to_pylist():
            if left[row[RULE]] > 0:
                left[row[RULE]] -= 1
                found.append({key: HIDDEN if key in private and value is not None else value for key, value in row.items()})
    return found


def _shares(rules: dict[str, int], limit: int) -> dict[str, int]:
    """How many rows of each rule to show: as many of one as of another, while they last."""
    shown = dict.fromkeys(rules, 0)
    while sum(shown.values()) < min(limit, sum(rules.values())):
        for rule in [each for each in rules if shown[each] < rules[each]][: limit - sum(shown.values())]:
            shown[rule] += 1
    return shown


def export(store: Store, name: str, file: Path) -> int:
    """Write the rows, values and all, for a person to mend; only they may read the file. Returns how many."""
    if file.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError("the rows are written as CSV or Parquet", value=str(file), allowed="FILE.csv or FILE.parquet")
    found = [table for _, table in tables_of(store, name)]
    if not found:
        raise _empty(name)
    table = pa.concat_tables(found, promote_options="default")
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        if file.suffix.lower() == ".csv":
            pyarrow.csv.write_csv(table, out)
        else:
            pq.write_table(table, out)
    return int(table.num_rows)


def _empty(name: str) -> UsageError:
    return UsageError("no row of this dataset is in quarantine", value=name, next="raycycle run --until ingest fills it")


def lines(rules: dict[str, int], rows: list[dict[str, Any]]) -> list[str]:
    """The counts, then a paragraph for each row."""
    said = [f"{count:>12,} {rule}" for rule, count in rules.items()]
    for row in rows:
        values = ", ".join(f"{key}={value}" for key, value in row.items() if not key.startswith("_") and value is not None)
        origin = " ".join(str(row[key]) for key in ("_file", "_row") if row.get(key) is not None)
        said += ["", f"{row[RULE]}: {row[REASON]}{f' ({origin})' if origin else ''}", f"  {values}"]
    return said


def mended_file(words: list[str]) -> tuple[str, Path | None, list[str]]:
    """`NAME [FILE] [KEY=VALUE]...` as the dataset, the file, and overrides that choose the dataset where they do not themselves."""
    overrides = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    if not 1 <= len(names) <= 2:
        raise UsageError("what to let in is not clear", value=" ".join(names), allowed="NAME [FILE] [KEY=VALUE]...")
    chosen = any(word.startswith(("dataset=", "experiment=")) for word in overrides)
    return names[0], Path(names[1]) if len(names) == 2 else None, overrides if chosen else [f"dataset={names[0]}", *overrides]


@dataclass(frozen=True)
class Mended:
    """A source of rows that were in quarantine."""

    rows: pa.Table

    def read(self) -> ray.data.Dataset:
        import ray.data

        return ray.data.from_arrow(self.rows.drop_columns([name for name in MARKS if name in self.rows.column_names]))


def reingest(
    name: str, contract: Contract, onces: tuple[Once, ...], store: Store, progress: Progress, file: Path | None = None
) -> tuple[Ingested, int]:
    """Append the rows of `file`, or those in quarantine as they are, and take them out of it; returns also how many are in it then.

    Killed between the two and started again, the rows are in the table once. Raises UsageError when there is nothing to let in.
    """
    with alone(name, store, progress) as lease:
        known = {row: rule for _, table in tables_of(store, name) for row, rule in _ids(table).items()}
        if not known:
            raise _empty(name)
        rows = _of_file(file, known) if file else _as_they_are(store, name, contract)
        left = known.keys() - set(rows.column(ID).to_pylist())
        # What is in quarantine now tells apart a second start from a second file of the same rows.
        token = digests.of_value([sorted(known), sorted(rows.column(ID).to_pylist())])
        lenient = msgspec.structs.replace(contract, max_bad_fraction=1.0)
        with publish(store.quarantine / name) as draft:
            _keep(store, name, left, draft)
            made = Ingest(name, pinned(lenient, Keyring(store)), store, progress, onces, "append", token).of(Mended(rows), draft, lease)
    return made, sum(counts(store, name).values())


def _ids(table: pa.Table) -> dict[str, str]:
    return dict(zip(table.column(ID).to_pylist(), table.column(RULE).to_pylist(), strict=True))


def _of_file(file: Path, known: Collection[str]) -> pa.Table:
    """The mended rows of a file that `export` wrote, as text."""
    try:
        rows = as_text(pq.read_table(file, partitioning=None) if file.suffix.lower() == ".parquet" else _read_csv(file))
    except FileNotFoundError:
        raise UsageError("the file is missing", value=str(file)) from None
    except pa.ArrowInvalid as error:
        raise UsageError(f"the file cannot be read ({error})", value=str(file), allowed="CSV or Parquet") from None
    ids = rows.column(ID).to_pylist() if ID in rows.column_names else []
    strange = sorted({str(each) for each in ids if each not in known})
    if not ids or strange or len(set(ids)) < len(ids):
        raise UsageError(
            f"the file's column {ID} does not name rows of the quarantine, each once" if ids else f"the file has no rows with {ID}",
            value=some(strange, 3) or None,
            allowed=f"the {ID} of rows that are in quarantine now",
            next="raycycle data quarantine NAME --out FILE writes them; rows that are not mended are left out",
        )
    return rows


def _read_csv(file: Path) -> pa.Table:
    with file.open(encoding="utf-8-sig", newline="") as handle:
        header = next(csv.reader(handle), [])
    kinds = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True, null_values=[""])
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return pyarrow.csv.read_csv(file, convert_options=kinds, parse_options=parse)


def _as_they_are(store: Store, name: str, contract: Contract) -> pa.Table:
    if changed := treatments(contract):
        raise UsageError(
            "the quarantine does not hold the values of columns with a treatment, so its rows cannot go in as they are",
            value=some(changed),
            next=f"raycycle data quarantine {name} --out FILE, put the values in from the source, and reingest that file",
        )
    rows = pa.concat_tables([table for _, table in tables_of(store, name)], promote_options="default")
    rows = rows.filter(pc.not_equal(rows.column(RULE), UNREADABLE))
    if not rows.num_rows:
        raise UsageError("only rows that could not be read at all are in quarantine", value=name, next="correct the source, and run again")
    return rows


def _keep(store: Store, name: str, left: Collection[str], draft: Path) -> None:
    """The rows `left` go on lying in quarantine."""
    for joined in (store.quarantine / name).glob("joined-tables.parquet"):
        os.link(joined, draft / joined.name)
    for file, table in tables_of(store, name):
        stays = pc.is_in(table.column(ID), pa.array(sorted(left), pa.string()))
        if stays.combine_chunks().true_count:
            kept = pq.read_table(file, partitioning=None).filter(stays)
            pq.write_table(kept, draft / "kept.parquet")
            digest = digests.of_file(draft / "kept.parquet")
            (draft / "kept.parquet").rename(free_name(draft, digest))

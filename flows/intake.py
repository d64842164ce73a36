"""What a task of ingest does: take in one batch of raw rows, or settle one range of keys. Each tells what became of its rows."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.objects import Folder
from cluster.store import writing
from ledger.digests import of_file
from tables import duplicates, snapshots
from tables.checking import Checked, check
from tables.contract import Contract
from tables.duplicates import HASH, OLD, Once, Piece
from tables.privacy.keys import Keyring
from tables.privacy.suspicion import Suspicion, suspicion
from tables.privacy.treatment import treat, treatments
from tables.rows import Hashes, TableDigest, row_hashes
from tables.snapshots import Part, SnapshotFile
from tables.table_checks import TableFacts


@dataclass(frozen=True)
class Intake:
    """Where rows go: good ones into `folder`, bad ones into `quarantine`, those that must meet others of their key into `work` first.

    `indexes` are of the tables that the contract refers to. `appends`: what is taken in is digested at once, to tell whether it was
    appended before. `merges`: the rows that the table has already are settled with the new ones and written again; else they only come
    first.
    """

    contract: Contract
    keyring: Keyring
    folder: Folder
    quarantine: Path
    work: Path
    onces: tuple[Once, ...] = ()
    merges: bool = False
    appends: bool = False
    indexes: Mapping[str, Hashes] = field(default_factory=dict)


class Told(msgspec.Struct):
    """What became of some rows; sums of it tell of the whole. `quarantined` are files, each with its SHA-256."""

    rows: int = 0
    parts: list[Part] = msgspec.field(default_factory=list)
    pieces: list[Piece] = msgspec.field(default_factory=list)
    quarantined: list[tuple[str, str]] = msgspec.field(default_factory=list)
    bad: dict[str, int] = msgspec.field(default_factory=dict)
    warned: dict[str, int] = msgspec.field(default_factory=dict)
    duplicates: int = 0
    taken: TableDigest = TableDigest()
    facts: dict[str, Any] | None = None
    suspicion: Suspicion = msgspec.field(default_factory=Suspicion)

    def add(self, other: Told) -> None:
        """Take the other's counts, parts and quarantine; its pieces are for the next step alone."""
        self.rows += other.rows
        self.parts += other.parts
        self.quarantined += other.quarantined
        self.bad = dict(Counter(self.bad) + Counter(other.bad))
        self.warned = dict(Counter(self.warned) + Counter(other.warned))
        self.duplicates += other.duplicates
        self.taken += other.taken
        self.suspicion += other.suspicion
        self.note(other.facts)

    def note(self, facts: dict[str, Any] | None) -> None:
        """Add what is known of rows that were written."""
        mine = self.facts
        both = facts and mine and (TableFacts.from_json(mine) + TableFacts.from_json(facts)).to_json()
        self.facts = both or mine or facts

    def told(self) -> pa.Table:
        return pa.table({"told": [msgspec.json.encode(self)]})

    @classmethod
    def heard(cls, row: dict[str, bytes]) -> Told:
        return msgspec.json.decode(row["told"], type=cls)


def take_in(batch: pa.Table, intake: Intake) -> pa.Table:
    """One batch of raw rows: its bad ones into the quarantine, its good ones onward."""
    checked = check(intake.contract, batch, intake.indexes)
    told = Told(rows=batch.num_rows, warned=checked.warned, suspicion=suspicion(intake.contract, checked.typed))
    _quarantine(intake, _bad(intake, batch, checked), told)
    good = treat(intake.contract, checked.good, intake.keyring)
    if intake.appends:
        told.taken = TableDigest.of(good)
    if intake.onces:
        for name in checked.origin.column_names:
            good = good.append_column(name, checked.origin.column(name).filter(checked.is_good))
        good = good.append_column(OLD, pa.repeat(False, good.num_rows))
    _onward(intake, 0, good, told)
    return told.told()


def _bad(intake: Intake, batch: pa.Table, checked: Checked) -> pa.Table:
    """The bad rows: values as they were read, since one of the wrong type is what must be mended; but treated ones as they are kept."""
    bad = treat(intake.contract, checked.bad, intake.keyring)
    changed = treatments(intake.contract)
    raw = checked.marked(batch)
    for place, name in enumerate(bad.column_names):
        if name in batch.column_names and name not in changed:
            bad = bad.set_column(place, name, raw.column(name))
    return bad


def take_again(batch: pa.Table, intake: Intake, files: list[SnapshotFile]) -> pa.Table:
    """Rows that the table has already, on their way to meet the new ones."""
    told = Told()
    for index in batch.column("id").to_pylist():
        rows = snapshots.read(files[index])
        _onward(intake, 0, rows.append_column(OLD, pa.repeat(True, rows.num_rows)), told)
    return told.told()


def facts_of(batch: pa.Table, intake: Intake, files: list[SnapshotFile]) -> pa.Table:
    """What the contract compares new rows with, of rows that the table has already."""
    told = Told()
    for index in batch.column("id").to_pylist():
        told.note(TableFacts.of(intake.contract, snapshots.read(files[index])).to_json())
    return told.told()


@dataclass(frozen=True)
class Step:
    """The step `number` of those that settle the rows: its once is `intake.onces[number]`, what it reads are `pieces`."""

    intake: Intake
    number: int
    pieces: list[Piece] = field(default_factory=list)

    @property
    def once(self) -> Once:
        return self.intake.onces[self.number]

    def settle(self, first: int, last: int) -> Told:
        """Each key of a range of hashes once; rows that lose leave, or go on with a warning."""
        told = Told()
        gathered = duplicates.gather(self.pieces, first, last)
        stays = duplicates.settle(self.once, gathered, lambda lost: self._lose(lost, told))
        if stays is not None:
            _onward(self.intake, self.number + 1, stays.drop_columns(HASH), told)
        return told

    def _lose(self, lost: pa.Table, told: Told) -> None:
        once, lost = self.once, lost.drop_columns(HASH)
        new = lost if self.intake.merges else lost.filter(pc.invert(lost.column(OLD)))
        if not once.rule:
            told.duplicates += new.num_rows
            return
        if once.severity == "warn":
            told.warned[once.rule] = told.warned.get(once.rule, 0) + new.num_rows
            _onward(self.intake, self.number + 1, lost, told)
            return
        said = f"another row has the same {', '.join(once.columns)}"
        marks = {"_rule": once.rule, "_reason": said}
        for name, text in marks.items():
            new = new.append_column(name, pa.repeat(pa.scalar(text), new.num_rows))
        # In an order of their own: which row is met first hangs on the layout.
        new = new.drop_columns(OLD).take(pa.array(row_hashes(new, new.column_names).argsort(kind="stable")))
        _quarantine(self.intake, new, told)


def settle(batch: pa.Table, step: Step) -> Iterator[pa.Table]:
    """Each range of key hashes in `batch`, one after another."""
    for first, last in zip(batch.column("first").to_pylist(), batch.column("last").to_pylist(), strict=True):
        yield step.settle(int(first), int(last)).told()


def _onward(intake: Intake, number: int, rows: pa.Table, told: Told) -> None:
    """To the step `number`, or into the table after the last."""
    if number and number == len(intake.onces) and not intake.merges:
        rows = rows.filter(pc.invert(rows.column(OLD)))
    if not rows.num_rows:
        return
    if number < len(intake.onces):
        told.pieces.append(duplicates.scatter(intake.onces[number], rows, intake.work / f"{number}-{uuid.uuid4().hex}.arrow"))
    else:
        written = rows.select(duplicates.content(rows))
        told.parts.append(snapshots.write_part(intake.folder, written))
        told.note(TableFacts.of(intake.contract, written).to_json())


def _quarantine(intake: Intake, bad: pa.Table, told: Told) -> None:
    if not bad.num_rows:
        return
    file = intake.quarantine / f"{uuid.uuid4().hex}.parquet"
    with writing(file):
        pq.write_table(bad, file)
    told.quarantined.append((file.name, of_file(file)))
    for rule, count in Counter(bad.column("_rule").to_pylist()).items():
        told.bad[rule] = told.bad.get(rule, 0) + count

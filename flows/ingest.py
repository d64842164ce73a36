"""Read a source, sort its rows by the contract into good and quarantined, and write the good ones as a snapshot.

$ raycycle run experiment=flights --until ingest
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.progress import Bar, Progress
from cluster.store import Store, drop_drafts, publish, writing
from conf.errors import RaycycleError, UsageError
from flows.ingested import Ingested as Ingested
from flows.intake import Intake, Step, Told, facts_of, settle, take_again, take_in
from ledger import locks
from tables import duplicates, snapshots
from tables.contract import Contract
from tables.duplicates import Once, Piece
from tables.log import history
from tables.places import latest
from tables.privacy.keys import Keyring
from tables.privacy.suspicion import refuse_unclassified
from tables.privacy.treatment import pinned, treated_contract
from tables.promises import Reference
from tables.references import index_of
from tables.rows import Hashes
from tables.snapshots import Snapshot
from tables.table_checks import TableFacts, compares_with_last, judge, refuse_stopped

if TYPE_CHECKING:
    import ray.data


class Source(Protocol):
    """Where raw rows come from.

    A source that joins tables may also offer `rejected() -> pa.Table`, their unusable rows, and `told() -> dict[str, int]`, what it counted
    on the way; and one that can tell whether its rows are the same as before `fingerprint(memo: Path) -> str`: without it the stage runs
    each time. Its rows may say in `_file` and `_row` where they were read.
    """

    def read(self) -> ray.data.Dataset: ...


def ingest(
    name: str,
    source: Source,
    contract: Contract,
    store: Store,
    progress: Progress,
    onces: Sequence[Once] = (),
    write: str = "replace",
    keyring: Keyring | None = None,
) -> Ingested:
    """Raises UsageError when the table is empty or breaks the contract beyond its budget; then no snapshot is made.

    `keyring` has the keys of columns that are hashed, by default that of `store`.

    One ingest of a table at a time: only then is a part that no version names known to be what a killed one left.
    """
    with alone(name, store, progress) as lease, publish(store.quarantine / name) as draft:
        keyring = keyring or Keyring(store)
        made = Ingest(name, pinned(contract, keyring), store, progress, tuple(onces), write, keyring=keyring)
        return made.of(source, draft, lease)


def referred(store: Store, contract: Contract) -> dict[str, str]:
    """The rows of each table that the contract refers to, by their digest. Raises UsageError for a table that is not there."""
    return {f"table {name}": str(snapshots.open_snapshot(store, name).digest) for name in sorted({r.table for r in contract.references})}


@contextlib.contextmanager
def alone(name: str, store: Store, progress: Progress) -> Iterator[locks.Lease]:
    """Hold the table, and leave nothing of an ingest that failed."""
    with locks.lease(store, f"table-{snapshots.table_folder(store, name).name}", progress.say) as lease:
        drop_drafts(store.quarantine / name)
        snapshots.drop_orphans(store, name)
        try:
            yield lease
        finally:
            snapshots.drop_orphans(store, name)  # of a refused table, or of a worker that died after it wrote and was tried again


@dataclass(frozen=True)
class Ingest:
    """The way of all rows of a source into the next version of a table; what a task does with some of them stands in `intake.py`.

    `token` tells apart rows that are appended on purpose although the same ones were before.
    """

    name: str
    contract: Contract
    store: Store
    progress: Progress
    onces: tuple[Once, ...] = ()
    write: str = "replace"
    token: str = ""
    keyring: Keyring | None = None

    def of(self, source: Source, quarantine: Path, lease: locks.Lease) -> Ingested:
        onto, schema = snapshots.head(self.store, self.name), treated_contract(self.contract).schema()
        if self.write == "append":
            snapshots.refuse_unlike(self.store, self.name, schema)
        with self.progress.stage("ingest") as bar, _scratch(self.store.quarantine / self.name) as work:
            intake = self._intake(quarantine, work)
            total = Told(warned=_joined(source, quarantine))
            pieces = carried_out(source.read(), take_in, {"intake": intake}, total, bar)
            total.warned |= source.told() if hasattr(source, "told") else {}
            base = self._base(self._once(total))
            if self.onces and self.write == "append":
                pieces += self._of_files(take_again, intake, base, total, bar)
            for number in range(len(self.onces)):
                pieces = _settled(Step(intake, number, pieces), total, bar)
            _name_by_content(quarantine, total.quarantined)
            promises = self._judge(intake, base, total)
            lease.check()
            snapshot = self._commit(schema, total, onto)
        quarantined = dict(Counter(total.bad).most_common())
        return Ingested(snapshot, quarantined, total.warned, self.store.quarantine / self.name, total.duplicates, promises)

    def _intake(self, quarantine: Path, work: Path) -> Intake:
        folder = snapshots.table_folder(self.store, self.name)
        indexes = {each.name: self._index(each) for each in self.contract.references}
        return Intake(
            self.contract, self.keyring or Keyring(self.store), folder, quarantine, work, self.onces, self._merges, self._adds, indexes
        )

    def _index(self, reference: Reference) -> Hashes:
        there = snapshots.open_snapshot(self.store, reference.table)
        return index_of(self.contract, reference, (snapshots.read(file, reference.to) for file in there.files))

    @property
    def _merges(self) -> bool:
        """Whether rows of the table may give way to new ones, so that all are written again."""
        return self.write == "append" and any(not once.rule for once in self.onces)

    @property
    def _adds(self) -> bool:
        return self.write == "append" and not self._merges

    def _once(self, total: Told) -> str:
        """What tells these rows from others that are appended: started again after a kill, they are the same."""
        return f"{self.token}{total.taken}"

    def _base(self, once: str) -> int:
        """The version that new rows are compared with, -1 for none: the latest, or the one before these very rows were appended to it."""
        head = snapshots.head(self.store, self.name)
        table = latest(snapshots.table_folder(self.store, self.name))
        appended = table.transaction_version(once) if table and self._adds else None
        if appended is None or any(each.mode == "replace" and each.number > appended for each in history(self.store, self.name)):
            return head
        return appended - 1

    def _commit(self, schema: pa.Schema, total: Told, onto: int) -> Snapshot:
        say = self.progress.say
        if self._adds:
            return snapshots.commit(self.store, self.name, schema, total.parts, "append", once=self._once(total), say=say)
        return snapshots.commit(self.store, self.name, schema, total.parts, onto=onto, say=say)

    def _of_files(self, task: Callable[..., Any], intake: Intake, version: int, total: Told, bar: Bar | None = None) -> list[Piece]:
        """Do `task` to each file of a version of the table."""
        if version < 0:
            return []
        import ray.data

        files = list(snapshots.open_snapshot(self.store, self.name, version).files)
        numbers = ray.data.range(len(files), override_num_blocks=max(len(files), 1))
        return carried_out(numbers, task, {"intake": intake, "files": files}, total, bar)

    def _judge(self, intake: Intake, base: int, total: Told) -> dict[str, str]:
        """Refuse what breaks the contract as a whole, before anything downstream sees it; returns in words what only warns."""
        refuse_unclassified(self.contract, total.suspicion, self.name)
        _refuse_beyond_budget(self.contract, total.rows, Counter(total.bad))
        last = Told()
        if self._adds or compares_with_last(self.contract):
            self._of_files(facts_of, intake, base, last)
        facts, before = (TableFacts.from_json(each.facts) if each.facts else None for each in (total, last))
        now = facts or TableFacts()
        now = before + now if before and self._adds else now
        said = refuse_stopped(self.contract, judge(self.contract, now, before, dt.datetime.now(dt.UTC)))
        for name, words in said.items():
            self.progress.say(f"warning   {name}: {words}")
        return said


def carried_out(rows: ray.data.Dataset, task: Callable[..., Any], given: dict[str, Any], total: Told, bar: Bar | None) -> list[Piece]:
    """Do `task` to each block; adds what became of the rows to `total`, and returns what is to be settled next."""
    pieces: list[Piece] = []
    for row in rows.map_batches(task, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, fn_kwargs=given).iter_rows():
        told = Told.heard(row)
        total.add(told)
        pieces += told.pieces
        if bar:
            removed = f", {total.duplicates:,} duplicates" if total.duplicates else ""
            bar.advance(told.rows, f"{sum(total.bad.values()):,} quarantined{removed}")
    return pieces


def _settled(step: Step, total: Told, bar: Bar) -> list[Piece]:
    """One task for each range of keys."""
    import ray.data

    ranges = [{"first": str(first), "last": str(last)} for first, last in duplicates.ranges(step.pieces)]
    if not ranges:
        return []
    pieces = carried_out(ray.data.from_items(ranges, override_num_blocks=len(ranges)), settle, {"step": step}, total, bar)
    for piece in step.pieces:
        Path(piece.path).unlink()
    return pieces


@contextlib.contextmanager
def _scratch(quarantine: Path) -> Iterator[Path]:
    """A folder for rows on their way; after a kill the next ingest of the table removes it as an unpublished quarantine."""
    folder = Path(tempfile.mkdtemp(prefix=f".{quarantine.name}.", dir=quarantine.parent))
    try:
        with writing(folder, quarantine.parent):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _joined(source: Source, quarantine: Path) -> dict[str, int]:
    """Unusable rows of the tables that the source joins: written to the quarantine, and counted."""
    if not hasattr(source, "rejected") or not (rejected := source.rejected()).num_rows:
        return {}
    pq.write_table(rejected, quarantine / "joined-tables.parquet")
    return dict(Counter(f"joined {rule}" for rule in rejected.column("rule").to_pylist()))


def free_name(folder: Path, digest: str) -> Path:
    names = (folder / f"rows1-{digest[:32]}-{number}.parquet" for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def _name_by_content(folder: Path, written: list[tuple[str, str]]) -> None:
    """Name the quarantine's files by their digest, numbered where batches held the same rows.

    What is not among the `written` came from a worker that died after it wrote, and was tried again.
    """
    for name, digest in written:
        (folder / name).rename(free_name(folder, digest))
    for file in folder.glob("*.parquet"):
        if not file.name.startswith(("rows1-", "joined-tables")):
            file.unlink()


def _refuse_beyond_budget(contract: Contract, rows: int, bad: Counter[str]) -> None:
    if not rows:
        raise UsageError(f"the source of {contract.name!r} has no rows", next="check source.path")
    if bad.total() == rows or bad.total() > contract.max_bad_fraction * rows:
        raise RaycycleError(
            f"{bad.total():,} of {rows:,} rows break the contract {contract.name!r}",
            value=dict(bad.most_common(5)),
            allowed=f"a share of at most {contract.max_bad_fraction} (max_bad_fraction)",
            next="correct the source, the rules, or max_bad_fraction in the contract",
        )

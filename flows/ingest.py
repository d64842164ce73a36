"""Read a source, sort its rows by the contract into good and quarantined, and write the good ones as a snapshot.

$ raycycle run experiment=flights --until ingest
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.progress import Progress
from cluster.store import Store, drop_drafts, publish, read_json, write_json, writing
from conf.errors import RaycycleError, UsageError
from ledger import digests, locks
from tables import snapshots
from tables.contract import Contract, check
from tables.rows import TableDigest
from tables.snapshots import Part, Snapshot

if TYPE_CHECKING:
    import ray.data


class Source(Protocol):
    """Where raw rows come from.

    A source that joins tables may also offer `rejected() -> pa.Table`, their unusable rows; and one that can tell whether its rows are the
    same as before `fingerprint(memo: Path) -> str`: without it the stage runs each time.
    """

    def read(self) -> ray.data.Dataset: ...


@dataclass(frozen=True)
class Ingested:
    """A snapshot and what was not let in: rows by broken rule (`warned` ones were kept)."""

    snapshot: Snapshot
    quarantined: dict[str, int] = field(default_factory=dict)
    warned: dict[str, int] = field(default_factory=dict)
    quarantine: Path | None = None

    @property
    def outputs(self) -> dict[str, str]:
        return {"rows": str(self.snapshot.digest), "quarantined": digests.of_value(self.quarantined)}

    def save(self, folder: Path) -> dict[str, str]:
        snapshot = self.snapshot
        facts = {"quarantined": self.quarantined, "warned": self.warned, "quarantine": str(self.quarantine or "")}
        write_json(folder / "ingested.json", {"format": 1, "name": snapshot.name, "version": snapshot.version, **facts})
        return self.outputs

    @classmethod
    def load(cls, folder: Path, store: Store) -> Ingested:
        facts = read_json(folder / "ingested.json")
        snapshot = snapshots.open_snapshot(store, facts["name"], facts["version"])
        return cls(snapshot, facts["quarantined"], facts["warned"], Path(facts["quarantine"]) if facts["quarantine"] else None)


def check_and_write(batch: pa.Table, contract: Contract, folder: Path, quarantine: Path) -> pa.Table:
    """One batch of raw rows: its good rows as a file of the table, its bad ones as a file of the quarantine, and a row of counts."""
    checked = check(contract, batch)
    part = snapshots.write_part(folder, checked.good) if checked.good.num_rows else Part("", 0, TableDigest())
    file = quarantine / f"{uuid.uuid4().hex}.parquet" if checked.bad.num_rows else None
    if file:
        with writing(file):
            pq.write_table(checked.bad, file)
    summary = {
        "path": part.path,
        "size": part.size,
        "digest": str(part.digest),
        "sha256": part.sha256,
        "rows": batch.num_rows,
        "quarantined": [file.name, str(TableDigest.of(checked.bad)).replace(":", "-")] if file else None,
        "bad": json.dumps(Counter(checked.bad.column("_rule").to_pylist())),
        "warned": json.dumps(checked.warned),
    }
    return pa.Table.from_pylist([summary])


def ingest(name: str, source: Source, contract: Contract, store: Store, progress: Progress) -> Ingested:
    """Raises UsageError when the table is empty or breaks the contract beyond its budget; then no snapshot is made.

    One ingest of a table at a time: only then is a part that no version names known to be what a killed one left.
    """
    with locks.lease(store, f"table-{snapshots.table_folder(store, name).name}", progress.say) as lease:
        drop_drafts(store.quarantine / name)
        snapshots.drop_orphans(store, name)
        try:
            return _ingest(name, source, contract, store, lease, progress)
        finally:
            snapshots.drop_orphans(store, name)  # of a refused table, or of a worker that died after it wrote and was tried again


def _ingest(name: str, source: Source, contract: Contract, store: Store, lease: locks.Lease, progress: Progress) -> Ingested:
    quarantine, folder = store.quarantine / name, snapshots.table_folder(store, name)
    parts: list[Part] = []
    bad: Counter[str] = Counter()
    warned: Counter[str] = Counter()
    with progress.stage("ingest") as bar, publish(quarantine) as draft:
        if hasattr(source, "rejected") and (rejected := source.rejected()).num_rows:
            pq.write_table(rejected, draft / "joined-tables.parquet")
            warned.update(f"joined {rule}" for rule in rejected.column("rule").to_pylist())
        checked = source.read().map_batches(
            check_and_write,  # type: ignore[arg-type]
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            fn_kwargs={"contract": contract, "folder": folder, "quarantine": draft},
        )
        rows, quarantined = 0, []
        for summary in checked.iter_rows():
            if summary["path"]:
                parts.append(Part(summary["path"], summary["size"], TableDigest.parse(summary["digest"]), summary["sha256"]))
            if summary["quarantined"]:
                quarantined.append(tuple(summary["quarantined"]))
            bad.update(json.loads(summary["bad"]))
            warned.update(json.loads(summary["warned"]))
            rows += summary["rows"]
            bar.advance(summary["rows"], f"{bad.total():,} quarantined")
        _name_by_content(draft, quarantined)
        _refuse_beyond_budget(contract, rows, bad)
        lease.check()
        snapshot = snapshots.commit(store, name, contract.schema(), parts)
    return Ingested(snapshot, dict(bad.most_common()), dict(warned), quarantine)


def _name_by_content(folder: Path, written: list[tuple[str, str]]) -> None:
    """Name the quarantine's files by the digest of their rows, numbered where batches held the same ones.

    What is not among the `written` came from a worker that died after it wrote, and was tried again.
    """
    seen: Counter[str] = Counter()
    for name, digest in written:
        seen[digest] += 1
        (folder / name).rename(folder / f"{digest}{f'-{seen[digest]}' if seen[digest] > 1 else ''}.parquet")
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

"""Tables in a store, with the runs that made them, without running anything."""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
from stores import kept, recorded

from cluster.store import Store
from ledger import records
from ledger.records import Record
from tables import snapshots
from tables.snapshots import Snapshot

CONTRACT = """
name: shop
task: binary
label: late
positive: true
key: [id]
time: day
columns:
  id: {type: int64, role: key, nullable: false}
  day: {type: date, role: time}
  price: {type: double}
  city: {type: string}
  email: {type: string, role: observed, class: personal, treatment: hash}
  late: {type: bool, role: label, nullable: false}
"""


def written(store: Store, *tables: pa.Table, name: str = "shop", mode: Literal["replace", "append"] = "replace") -> Snapshot:
    """The tables as files of the next version."""
    parts = [snapshots.write_part(snapshots.table_folder(store, name), table) for table in tables]
    return snapshots.commit(store, name, tables[0].schema, parts, mode)


def made_by(store: Store, snapshot: Snapshot, run_id: str, contract: str = CONTRACT, **changed: Any) -> Record:
    """The run that made the snapshot; `version` says which model version came of it, `taken` that it took the snapshot as it lay."""
    version, taken = changed.pop("version", None), changed.pop("taken", False)
    digest = str(snapshot.digest)
    inputs: dict[str, str | None] = {"snapshot": digest} if taken else {"source": run_id}
    named = {"name": snapshot.name, "version": snapshot.version}
    facts = {"format": 1, **named, "quarantined": {"price.min": 2}, "warned": {}, "quarantine": ""}
    stage = kept(store, "ingest", inputs, {"rows": digest}, {"ingested.json": facts}, run_id, dataset=snapshot.name)
    made: dict[str, Any] = {"snapshot": {**named, "digest": digest}}
    if version:
        made |= {"model": snapshot.name, "version": version}
    record = recorded(store, run_id, dataset=snapshot.name, contract=contract, stages=[stage], made=made, **changed)
    assert records.find(store, run_id)[0] == record
    return record

"""Ten million rows like flights, from Parquet files to a snapshot: rows a second, beside polars and duckdb that do the same.

python -m bench ingest [polars] [duckdb] [--json]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench import peers
from bench.contracts import checks
from tables.contract import Column, Contract, Rule
from tables.sources.files import Files
from tables.sources.flights import FLIGHTS, read_csv

ROWS = int(os.environ.get("RAYCYCLE_BENCH_ROWS", "10000000"))
FILE_ROWS = 1_000_000
PEERS = ("polars", "duckdb")
ROOT = Path(__file__).parent.parent
TYPES = {"int64": "int64", "string": "string", "double": "double"}


def contract() -> Contract:
    """The 19 columns of flights and an id; flights that never arrived have no label and are set aside (2.8 %)."""
    schema = read_csv(FLIGHTS).schema
    columns = {field.name: Column(type=_type(field.type), privacy_class="internal") for field in schema}
    columns |= {
        "id": Column(type="int64", role="key", nullable=False, privacy_class="internal"),
        "month": Column(type="int64", nullable=False, min=1, max=12),
        "distance": Column(type="int64", nullable=False, min=50, max=6000),
        "origin": Column(type="string", nullable=False, allowed=["EWR", "JFK", "LGA"]),
        "arr_delay": Column(type="double", role="label", nullable=False),
    }
    rules = [Rule(name="goes somewhere", check="origin != dest")]
    return Contract(name="bench", task="regression", label="arr_delay", columns=columns, rules=rules)


def _type(kind: pa.DataType) -> Any:
    return "timestamp" if pa.types.is_timestamp(kind) else TYPES[str(kind)]


def write(folder: Path, rows: int) -> None:
    """Files of a million rows, resampled from the flights of 2013."""
    flights = read_csv(FLIGHTS)
    for number in range(rows // FILE_ROWS):
        chosen = np.random.default_rng(number).integers(0, flights.num_rows, FILE_ROWS)
        ids = pa.array(np.arange(number * FILE_ROWS, (number + 1) * FILE_ROWS))
        pq.write_table(flights.take(pa.array(chosen)).append_column("id", ids), folder / f"{number:03}.parquet", compression="zstd")


def measure(parts: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    if unknown := set(parts) - set(PEERS):
        raise SystemExit(f"no such peer: {', '.join(sorted(unknown))} (there are {', '.join(PEERS)})")
    with tempfile.TemporaryDirectory(prefix="ingest.") as folder:
        rows = Path(folder, "rows")
        rows.mkdir()
        say(f"writing {ROWS:,} rows")
        write(rows, ROWS)
        ours = ingested(rows, Path(folder))
        say(f"raycycle   {ours['rows_per_s']:>12,.0f} rows/s, {ours['seconds']:.1f} s, digest {ours['digest_share']:.1%}")
        others, skipped = _peers(parts or PEERS, Path(folder), rows, say)
    for name, peer in others.items():
        if peer["good"] != ours["good"]:
            raise AssertionError(f"{name} lets in {peer['good']:,} rows and raycycle {ours['good']:,}")
    ratios = {name: peer["seconds"] / ours["seconds"] for name, peer in others.items()}
    ratios |= {"half_a_million_a_second": ours["rows_per_s"] / 5e5, "digest_15_percent": 0.15 / ours["digest_share"]}
    return {"rows": ROWS, "raycycle": ours, **others, "skipped": skipped, "ratios": ratios}


def publish(result: dict[str, Any]) -> list[Path]:
    """Nothing is written: docs/ingest.md quotes the figures."""
    return []


def ingested(rows: Path, folder: Path) -> dict[str, Any]:
    from cluster.progress import Progress
    from cluster.session import connect
    from cluster.store import Store
    from flows.ingest import ingest

    store, began = Store.open(folder / "store"), time.monotonic()
    with connect(store, num_cpus=2):
        started = time.monotonic()
        made = ingest("bench", Files(path=str(rows)), contract(), store, Progress(quiet=True))
        seconds = time.monotonic() - started
    return {
        "seconds": seconds,
        "with_ray_start": seconds + started - began,
        "rows_per_s": ROWS / seconds,
        "good": made.snapshot.rows,
        "quarantined": made.quarantined,
        "digest_share": digest_share(rows, folder),
    }


def digest_share(rows: Path, folder: Path) -> float:
    """The part of a task's time that the digests of its rows take: one file, in this process."""
    from flows.intake import Intake, take_in
    from tables.privacy.keys import Keyring
    from tables.rows import TableDigest

    (folder / "parts").mkdir()
    intake = Intake(contract(), Keyring(None), folder / "parts", folder / "parts", folder / "parts")  # type: ignore[arg-type]
    spent, whole = 0.0, TableDigest.of

    def timed(table: pa.Table, columns: Sequence[str] | None = None) -> TableDigest:
        nonlocal spent
        began = time.perf_counter()
        try:
            return whole(table, columns)
        finally:
            spent += time.perf_counter() - began

    TableDigest.of = timed  # type: ignore[assignment, method-assign]
    try:
        began = time.perf_counter()
        for batch in Files(path=str(min(rows.iterdir()))).batches():
            take_in(batch, intake)
        return spent / (time.perf_counter() - began)
    finally:
        TableDigest.of = whole  # type: ignore[method-assign]


def _peers(names: Sequence[str], folder: Path, rows: Path, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, str]]:
    asked = folder / "checks.json"
    asked.write_text(json.dumps([check["broken"] for check in checks(contract())]))
    script = ROOT / "bench" / "ingest_peers.py"
    return peers.measured(names, folder, lambda name: [script, name, rows, asked, folder / name], _line, say)


def _line(name: str, found: dict[str, Any]) -> str:
    return f"{name:<10} {ROWS / found['seconds']:>12,.0f} rows/s, {found['seconds']:.1f} s"


if __name__ == "__main__":
    print(json.dumps(ingested(Path(sys.argv[1]), Path(sys.argv[2]))))

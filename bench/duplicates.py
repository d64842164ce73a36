"""Twenty million rows of which a tenth are duplicates, by key: each key once, and memory that does not grow with the rows.

python -m bench duplicates [ray] [--json]      # ray: the same by Dataset.repartition(keys=...) of Ray Data, on a quarter of the rows
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conf.schema import Duplicates
from tables.contract import Column, Contract
from tables.duplicates import Once, asked, content
from tables.duplicates import settle as settled
from tables.sources.files import Files

ROWS = int(os.environ.get("RAYCYCLE_BENCH_ROWS", "20000000"))
FILE_ROWS = 1_000_000
SHARE = 0.1
ROOT = Path(__file__).parent.parent


def contract() -> Contract:
    columns = {"id": Column(type="int64", role="key", nullable=False, privacy_class="internal"), "at": Column(type="timestamp")}
    columns |= {f"x{number}": Column(type="double") for number in range(4)}
    columns |= {"word": Column(type="string", privacy_class="internal"), "y": Column(type="double", role="label", nullable=False)}
    return Contract(name="bench", task="regression", label="y", columns=columns)


def write(folder: Path, rows: int) -> None:
    """Every tenth row is an older form of a row somewhere else."""
    words = pa.array([f"word {number}" for number in range(1000)])
    keys = int(rows * (1 - SHARE))
    for number in range(rows // FILE_ROWS):
        rng = np.random.default_rng(number)
        place = np.arange(number * FILE_ROWS, (number + 1) * FILE_ROWS) * 7_368_787 % rows  # a prime: every place once, in no order
        ids = np.where(place < keys, place, (place - keys) * 9)
        at = pa.array(np.where(place < keys, 10**15, 0) + rng.integers(0, 10**14, FILE_ROWS)).cast(pa.timestamp("us", "UTC"))
        columns: dict[str, Any] = {"id": ids, "at": at, **{f"x{n}": rng.normal(size=FILE_ROWS) for n in range(4)}}
        columns |= {"word": words.take(pa.array(rng.integers(0, 1000, FILE_ROWS))), "y": rng.normal(size=FILE_ROWS)}
        pq.write_table(pa.table(columns), folder / f"{number:03}.parquet", compression="zstd")


def measure(parts: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    if unknown := set(parts) - {"ray"}:
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))} (there is ray)")
    found = {}
    for name, rows in (("quarter", ROWS // 4), ("whole", ROWS)):
        found[name] = _apart("ours", rows)
        say(f"{name:<8} {rows:>12,} rows, {found[name]['seconds']:.1f} s, peak {found[name]['peak_bytes'] / 2**20:,.0f} MiB")
    if "ray" in parts:
        found["ray"] = _apart("ray", ROWS // 4)
        say(f"ray      {ROWS // 4:>12,} rows, {found['ray']['seconds']:.1f} s, peak {found['ray']['peak_bytes'] / 2**20:,.0f} MiB")
    ratios = {"flat_memory": 1.25 * found["quarter"]["peak_bytes"] / found["whole"]["peak_bytes"]}
    ratios |= {"ray": found["ray"]["seconds"] / found["quarter"]["seconds"]} if "ray" in found else {}
    return {"rows": ROWS, **found, "ratios": ratios}


def publish(result: dict[str, Any]) -> list[Path]:
    """Nothing is written: docs/ingest.md quotes the figures."""
    return []


def _apart(way: str, rows: int) -> dict[str, Any]:
    words = [sys.executable, "-m", "bench.duplicates", way, str(rows)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(ended.stderr[-3000:])
    return dict(json.loads(ended.stdout.splitlines()[-1]))


class Peak(threading.Thread):
    """The most memory of their own that this process and its children ever held together, and the most that Ray's store held."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes, self.ended = 0, threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self.ended.wait(0.5):
            total = 0
            for each in (me, *me.children(recursive=True)):
                try:
                    memory = each.memory_info()
                    total += memory.rss - memory.shared
                except psutil.Error:
                    continue
            self.bytes = max(self.bytes, total + psutil.virtual_memory().shared - self.before)

    def __enter__(self) -> Peak:
        self.before = psutil.virtual_memory().shared
        self.start()
        return self

    def __exit__(self, *of: object) -> None:
        self.ended.set()
        self.join()


def once(way: str, rows: int) -> dict[str, Any]:
    from cluster.session import connect
    from cluster.store import Store

    with tempfile.TemporaryDirectory(prefix="duplicates.") as folder:
        source, store = Path(folder, "rows"), Store.open(Path(folder, "store"))
        source.mkdir()
        write(source, rows)
        (latest,) = asked(contract(), Duplicates(by=["id"], time="at"))
        with Peak() as peak, connect(store, num_cpus=2):
            began = time.monotonic()
            kept, files = _ours(source, store, latest) if way == "ours" else _by_ray(source, latest, Path(folder, "out"))
            seconds = time.monotonic() - began
        ids = pa.chunked_array([chunk for file in files for chunk in pq.read_table(file, columns=["id"]).column("id").chunks])
        if not kept == len(ids) == pc.count_distinct(ids).as_py() == int(rows * (1 - SHARE)):
            raise AssertionError(f"{kept:,} rows with {pc.count_distinct(ids).as_py():,} keys: one is there twice, or was lost")
    return {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds, "peak_bytes": peak.bytes, "kept": kept}


def _ours(source: Path, store: Any, latest: Once) -> tuple[int, list[Path]]:
    from cluster.progress import Progress
    from flows.ingest import ingest

    made = ingest("bench", Files(path=str(source)), contract(), store, Progress(quiet=True), (latest,))
    return made.snapshot.rows, [Path(str(path)) for path in made.snapshot.paths]


def _by_ray(source: Path, latest: Once, out: Path) -> tuple[int, list[Path]]:
    import ray.data

    from tables.duplicates import HASH
    from tables.rows import row_hashes

    def one_of_each(table: pa.Table) -> pa.Table:
        hashed = table.append_column(HASH, pa.array(row_hashes(table, latest.columns)))
        found = settled(latest, iter([hashed]), lambda lost: None)
        return hashed.slice(0, 0).select(content(hashed)) if found is None else found.select(content(found))

    shuffled = ray.data.read_parquet(str(source)).repartition(32, keys=list(latest.columns))
    shuffled.map_batches(one_of_each, batch_size=None, batch_format="pyarrow", zero_copy_batch=True).write_parquet(str(out))
    files = sorted(out.glob("*.parquet"))
    return sum(pq.read_metadata(file).num_rows for file in files), files


if __name__ == "__main__":
    print(json.dumps(once(sys.argv[1], int(sys.argv[2]))))

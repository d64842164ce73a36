"""How fast rows are held to a contract of 20 columns, in how much memory, and how fast polars and duckdb do the same checks.

python -m bench contracts [polars] [duckdb] [--json]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench import peers
from bench.peers import THREADS
from tables.checking import check
from tables.contract import Column, Contract, Rule

SMALL, LARGE = 2_000_000, 8_000_000
GROUP_ROWS = 1_000_000
PEERS = ("polars", "duckdb")
ROOT = Path(__file__).parent.parent
CODES = [f"{a}{b}" for a in "ABCD" for b in "WXYZ"]
TYPES = {"int64": 7, "double": 5}


def contract() -> Contract:
    """20 columns: whole numbers, numbers, text in sets and of patterns, a date, a time and a label; and two rules over several."""
    columns = {f"whole_{i}": Column(type="int64", nullable=False, min=0, max=999) for i in range(TYPES["int64"])}
    columns |= {f"number_{i}": Column(type="double", min=-4, max=4) for i in range(TYPES["double"])}
    columns |= {f"set_{i}": Column(type="string", nullable=False, allowed=CODES) for i in range(3)}
    columns |= {
        "code": Column(type="string", pattern="[A-D][W-Z]"),
        "tail": Column(type="string", pattern=r"N\d{1,7}"),
        "day": Column(type="date", nullable=False),
        "moment": Column(type="timestamp", role="time", nullable=False),
        "y": Column(type="bool", role="label", nullable=False),
    }
    rules = [Rule(name="ordered", check="whole_0 <= whole_1 + 990"), Rule(name="paired", check="number_0 < 3.9 or whole_2 >= 10")]
    return Contract(name="bench", task="binary", label="y", columns=columns, rules=rules)


def checks(of: Contract) -> list[dict[str, str]]:
    """The same in SQL, in the order in which the contract asks."""
    found = []
    for name, column in of.columns.items():
        if not column.nullable:
            found.append({"rule": f"{name}.nullable", "broken": f"{name} IS NULL"})
        for bound, sign in (("min", "<"), ("max", ">")):
            if (value := getattr(column, bound)) is not None:
                found.append({"rule": f"{name}.{bound}", "broken": f"{name} {sign} {value:g}"})
        if column.allowed:
            found.append({"rule": f"{name}.allowed", "broken": f"{name} NOT IN ({', '.join(repr(each) for each in column.allowed)})"})
        if column.pattern:
            found.append({"rule": f"{name}.pattern", "broken": f"NOT regexp_like({name}, '^(?:{column.pattern})$')"})
    return [*found, *({"rule": rule.name, "broken": f"NOT ({rule.check})"} for rule in of.rules)]


def write(file: Path, rows: int) -> None:
    """About one row in a hundred is bad, and one value in thirty of those that may be missing is."""
    schema = contract().schema()
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for seed in range(rows // GROUP_ROWS):
            writer.write_table(_rows(seed, schema), row_group_size=GROUP_ROWS)


def _rows(seed: int, schema: pa.Schema) -> pa.Table:
    rng, count = np.random.default_rng(seed), GROUP_ROWS
    codes = pa.array([*CODES, "??"])
    chances = np.array([*[(1 - 1e-3) / len(CODES)] * len(CODES), 1e-3])
    arrays: list[pa.Array] = []
    for field in schema:
        if pa.types.is_int64(field.type):
            arrays.append(pa.array(rng.integers(0, 1000, count) + 1000 * (rng.random(count) < 1e-3)))
        elif pa.types.is_floating(field.type):
            arrays.append(pa.array(rng.normal(size=count), mask=rng.random(count) < 1 / 30))
        elif field.name == "tail":
            arrays.append(pa.array([f"N{number}" for number in rng.integers(0, 10_000_000, count).tolist()]))
        elif pa.types.is_string(field.type):
            arrays.append(codes.take(pa.array(rng.choice(len(codes), count, p=chances))))
        elif pa.types.is_boolean(field.type):
            arrays.append(pa.array(rng.random(count) < 0.3))
        else:
            scale = 1 if pa.types.is_date(field.type) else 86_400_000_000
            arrays.append(
                pa.array(rng.integers(15_000, 20_000, count) * scale).cast(pa.int32() if scale == 1 else pa.int64()).cast(field.type)
            )
    return pa.Table.from_arrays(arrays, schema=schema)


def measure(parts: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    if unknown := set(parts) - set(PEERS):
        raise SystemExit(f"no such peer: {', '.join(sorted(unknown))} (there are {', '.join(PEERS)})")
    with tempfile.TemporaryDirectory(prefix="contracts.") as folder:
        small, large = Path(folder, "small.parquet"), Path(folder, "large.parquet")
        say(f"writing {SMALL + LARGE:,} rows")
        write(small, SMALL)
        write(large, LARGE)
        before = _ours(small)
        ours = _ours(large)
        say(_line("raycycle", ours))
        others, skipped = _peers(parts or PEERS, Path(folder), large, say)
    for name, peer in others.items():
        if peer["broken"] != ours["broken"]:
            raise AssertionError(f"{name} counts other rows than raycycle: {peer['broken']} and {ours['broken']}")
    ratios = {name: peer["seconds"] / ours["seconds"] for name, peer in others.items()}
    ratios |= {f"{name}_cpu": peer["cpu_s"] / ours["cpu_s"] for name, peer in others.items()}
    ratios |= {"2_million_a_second": ours["checked_rows_per_s"] / 2e6, "flat_memory": 1.25 * before["peak_bytes"] / ours["peak_bytes"]}
    return {
        "rows": LARGE,
        "columns": 20,
        "threads": THREADS,
        "raycycle": ours,
        "small": before,
        **others,
        "skipped": skipped,
        "ratios": ratios,
    }


def publish(result: dict[str, Any]) -> list[Path]:
    """Nothing is written: docs/contracts.md quotes the figures."""
    return []


def _ours(file: Path) -> dict[str, Any]:
    ended = subprocess.run([sys.executable, "-m", "bench.contracts", str(file)], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


def _peers(names: Sequence[str], folder: Path, file: Path, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, str]]:
    asked = folder / "checks.json"
    asked.write_text(json.dumps(checks(contract())))
    script = ROOT / "bench" / "contract_peers.py"
    return peers.measured(names, folder, lambda name: [script, name, file, asked], _line, say)


def _line(name: str, found: dict[str, Any]) -> str:
    speed = f"{LARGE / found['seconds'] / 1e6:6.2f} M rows/s with reading ({LARGE / found['cpu_s'] / 1e6:.2f} M a second of processor)"
    return f"{name:<10} {speed}, peak {found['peak_bytes'] / 2**20:,.0f} MiB"


def check_file(file: Path) -> dict[str, Any]:
    """Read and check in two threads, each a row group at a time; and once more without the reading, on batches that lie in memory."""
    promised = contract()

    def one(batches: Iterator[pa.Table]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for batch in batches:
            checked = check(promised, batch)
            counts[""] += checked.good.num_rows
            counts.update(checked.bad.column("_rule").to_pylist())
        return counts

    def group(number: int) -> Counter[str]:
        with pq.ParquetFile(file) as opened:
            read = opened.iter_batches(65_536, row_groups=[number], use_threads=False)
            return one(pa.Table.from_batches([batch]) for batch in read)

    with ThreadPoolExecutor(THREADS) as pool:
        started, used = time.monotonic(), time.process_time()
        broken = sum(pool.map(group, range(pq.read_metadata(file).num_row_groups)), Counter())
        seconds, cpu = time.monotonic() - started, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        held = [pa.Table.from_batches([batch]) for batch in pq.ParquetFile(file).iter_batches(65_536, row_groups=[0])]
        started, used = time.monotonic(), time.process_time()
        for _ in pool.map(lambda turn: one(iter(held)), range(2 * THREADS)):
            pass
        alone = {"seconds": time.monotonic() - started, "cpu_s": time.process_time() - used}
    rows = 2 * THREADS * sum(batch.num_rows for batch in held)
    return {
        "seconds": seconds,
        "cpu_s": cpu,
        "peak_bytes": peak,
        "checked_rows_per_s": rows / alone["seconds"],
        "checked_rows_per_cpu_s": rows / alone["cpu_s"],
        "broken": dict(sorted(broken.items())),
    }


if __name__ == "__main__":
    print(json.dumps(check_file(Path(sys.argv[1]))))

"""The same way of the same rows in polars or duckdb: read, check, set bad rows aside, write good ones. It runs in an environment of theirs.

python ingest_peers.py polars|duckdb ROWS_FOLDER CHECKS.json OUT_FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def polars(rows: Path, broken: list[str], out: Path) -> int:
    import polars as pl

    bad = pl.any_horizontal([pl.sql_expr(each).fill_null(False) for each in broken])
    good = 0
    for file in sorted(rows.iterdir()):
        table = pl.read_parquet(file).with_columns(pl.col("arr_delay").cast(pl.Float64)).with_columns(_bad=bad)
        kept = table.filter(~pl.col("_bad")).drop("_bad")
        kept.write_parquet(out / f"good-{file.name}", compression="zstd")
        table.filter(pl.col("_bad")).write_parquet(out / f"bad-{file.name}", compression="zstd")
        good += kept.height
    return good


def duckdb(rows: Path, broken: list[str], out: Path) -> int:
    import duckdb

    database = duckdb.connect()
    database.execute("SET threads = 2")
    bad = " OR ".join(f"coalesce({each}, false)" for each in broken)
    good = 0
    for file in sorted(rows.iterdir()):
        source = f"(SELECT * REPLACE (arr_delay::DOUBLE AS arr_delay) FROM '{file}')"  # noqa: S608
        for name, where in (("good", f"NOT ({bad})"), ("bad", bad)):
            copied = f"COPY (FROM {source} WHERE {where}) TO '{out}/{name}-{file.name}' (FORMAT parquet, COMPRESSION zstd)"
            count = database.execute(copied).fetchone()
            good += count[0] if name == "good" and count else 0
    return good


if __name__ == "__main__":
    _, peer, rows, checks, out = sys.argv
    Path(out).mkdir()
    began = time.monotonic()
    found = {"polars": polars, "duckdb": duckdb}[peer](Path(rows), json.loads(Path(checks).read_text()), Path(out))
    print(json.dumps({"seconds": time.monotonic() - began, "good": found}))

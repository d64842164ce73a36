"""The checks of a contract as a person would write them in polars or duckdb; run by the throw-away Python that has these.

python bench/contract_peers.py polars FILE.parquet CHECKS.json
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

# A check as {"rule": NAME, "broken": SQL}; both tools read this SQL. A row counts for the first that it breaks.
Checks = list[dict[str, str]]


def with_polars(file: str, checks: Checks) -> dict[str, int]:
    import polars as pl

    first: Any = pl.lit(None, pl.String)
    for check in reversed(checks):
        first = pl.when(pl.sql_expr(check["broken"])).then(pl.lit(check["rule"])).otherwise(first)
    counted = pl.scan_parquet(file).select(first.alias("rule")).group_by("rule").len().collect(engine="streaming")
    return dict(counted.rows())


def with_duckdb(file: str, checks: Checks) -> dict[str, int]:
    import duckdb

    duckdb.execute("SET threads = 2")
    # duckdb has the same function under another name.
    cases = " ".join(f"WHEN {check['broken']} THEN '{check['rule']}'" for check in checks)
    cases = cases.replace("regexp_like(", "regexp_matches(")
    return dict(duckdb.execute(f"SELECT CASE {cases} END AS rule, count(*) FROM '{file}' GROUP BY 1").fetchall())  # noqa: S608


def main(tool: str, file: str, checks: str) -> None:
    asked = json.loads(Path(checks).read_text())
    answer = {"polars": with_polars, "duckdb": with_duckdb}[tool]
    started, used = time.monotonic(), time.process_time()
    counts = answer(file, asked)
    seconds, cpu = time.monotonic() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "cpu_s": cpu, "peak_bytes": peak, "broken": {key or "": count for key, count in counts.items()}}))


if __name__ == "__main__":
    main(*sys.argv[1:])

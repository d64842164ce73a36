"""Does `init` and `run`, as a newcomer types them, lose to a plain scikit-learn pipeline on any shape of table?

python -m bench any_table [TABLE ...]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset

from bench import plain
from bench.machine import describe
from bench.report import page
from bench.shapes import SHAPES, Shape
from cluster.store import Store, write_atomic
from tables import snapshots
from tables.contract import Contract
from tables.rows import row_hashes
from tables.target import Target, label_sketch
from trainers.metrics import HIGHER_IS_BETTER

NUM_TRIALS = 16
SEED = 0
TIMEOUT_S = 900
ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "bench" / "results.json", ROOT / "docs" / "any-table.md"
RAYCYCLE = Path(sys.executable).with_name("raycycle")
# A run whose candidate is refused by its gates ends with 3: an answer too.
ANSWERED = (0, 3)


def measure(parts: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """One row for each table, one table after the other; `parts` names some of them."""
    unknown = set(parts) - {shape.name for shape in SHAPES}
    if unknown:
        raise SystemExit(f"no such table: {', '.join(sorted(unknown))} (there are {', '.join(shape.name for shape in SHAPES)})")
    rows = []
    for shape in SHAPES:
        if parts and shape.name not in parts:
            continue
        with tempfile.TemporaryDirectory(prefix="any-table-") as folder:
            rows.append(one(shape, Path(folder)))
        say(_line(rows[-1]))
    return {"tables": rows, "ratios": {row["name"]: _ratio(row) for row in rows if "metrics" in row}}


def publish(result: dict[str, Any]) -> list[Path]:
    """Rows measured now replace those of the same table; the others stay, each with the machine and commit it was measured on."""
    before = json.loads(RESULTS.read_text())["tables"] if RESULTS.exists() else []
    known = {row["name"]: row for row in [*before, *result["tables"]]}
    rows = [known[shape.name] for shape in SHAPES if shape.name in known]
    ratios = {row["name"]: _ratio(row) for row in rows if "metrics" in row}
    write_atomic(RESULTS, json.dumps({"tables": rows, "ratios": ratios}, indent=1, ensure_ascii=False).encode() + b"\n")
    write_atomic(PAGE, page(rows, NUM_TRIALS).encode())
    return [RESULTS, PAGE]


def one(shape: Shape, folder: Path) -> dict[str, Any]:
    """Write the table, call `init` and `run` in an empty folder with a store of its own, and compare on the rows held out."""
    file = shape.save(folder)
    row: dict[str, Any] = {"name": shape.name, "what": shape.what, "machine": describe()}
    seen, init_s = _raycycle(folder, "init", file.name, "--label", shape.label)
    row |= {"findings": [_short(finding) for finding in seen.get("findings", [])]}
    if not seen["ok"]:
        return {**row, "error": seen.get("error", seen)}
    row |= {"task": seen["task"], "rows": seen["rows"], "columns": len(seen["columns"])}
    made, run_s = _raycycle(folder, "run", f"dataset={seen['name']}", "deploy=none", f"sweep.num_trials={NUM_TRIALS}", f"seed={SEED}")
    if made["exit_code"] not in ANSWERED:
        return {**row, "error": made.get("error", made)}
    row |= {"exit_code": made["exit_code"], "refused": [gate["reason"] for gate in made["gates"] if not gate["passed"]]}
    contract = Contract.load(folder / seen["contract"])
    compared, plain_s = _compare(contract, folder, made)
    return {
        **row,
        "metric": made["metric"],
        "winner": made["trainer"],
        "seconds": {"init": init_s, "run": run_s, "plain": plain_s, "stages": made["seconds"]},
        **compared,
    }


def _raycycle(folder: Path, *words: str) -> tuple[dict[str, Any], float]:
    started = time.monotonic()
    home = {**os.environ, "RAYCYCLE_HOME": str(folder / "home")}
    ended = subprocess.run([RAYCYCLE, *words, "--json"], cwd=folder, env=home, capture_output=True, text=True, timeout=TIMEOUT_S)
    seconds = round(time.monotonic() - started, 1)
    try:
        return json.loads(ended.stdout), seconds
    except ValueError:
        return {"ok": False, "exit_code": ended.returncode, "error": ended.stderr[-2000:]}, seconds


def _compare(contract: Contract, folder: Path, made: dict[str, Any]) -> tuple[dict[str, Any], float]:
    name, version = made["snapshot"].rsplit("@", 1)
    snapshot = snapshots.open_snapshot(Store.open(folder / "home"), name, int(version))
    table = pa.concat_tables([snapshots.read(file) for file in snapshot.files])
    holdout, scored = (pyarrow.dataset.dataset(made[key], format="parquet").to_table() for key in ("score_input", "scores"))
    if not holdout.column(contract.label).equals(scored.column(contract.label)):
        raise AssertionError("scores do not lie beside the rows they were made from")
    target = Target.of(contract, label_sketch(contract, table.column(contract.label).combine_chunks()))
    y = target.encode(holdout.column(contract.label).combine_chunks())
    known = np.isfinite(y)
    names = list(contract.columns)
    held = np.isin(row_hashes(table, names), row_hashes(holdout, names))
    started = time.monotonic()
    theirs = plain.answers(contract, target, table.filter(pa.array(~held)), holdout.filter(pa.array(known)), SEED)
    seconds = round(time.monotonic() - started, 1)
    ours = _ours(target, scored.filter(pa.array(known)))
    return {"holdout_rows": int(known.sum()), "metrics": plain.compare(target, made["metric"], y[known], theirs, ours, SEED)}, seconds


def _ours(target: Target, scored: pa.Table) -> plain.Answers:
    codes = target.encode(scored.column("prediction").combine_chunks())
    if target.task == "regression":
        return plain.Answers(codes, codes)
    names = ["score"] if target.task == "binary" else [f"score_{each}" for each in target.classes]
    scores = np.column_stack([np.asarray(scored.column(name)) for name in names])
    return plain.Answers(scores[:, 0] if target.task == "binary" else scores, codes)


def _ratio(row: dict[str, Any]) -> float:
    """Above 1 where ours is better, whichever way the metric points."""
    found = row["metrics"][row["metric"]]
    ours, theirs = found["ours"], found["plain"]
    return round(ours / theirs if HIGHER_IS_BETTER[row["metric"]] else theirs / ours, 4)


def _short(finding: dict[str, Any]) -> str:
    return f"{finding['kind']}: {finding['what']}: {finding['decision']}"


def _line(row: dict[str, Any]) -> str:
    if "metrics" not in row:
        return f"{row['name']:<14} {row['error']}"
    found = row["metrics"][row["metric"]]
    ours, theirs, by = found["ours"], found["plain"], found["difference"] / (found["standard_error"] or 1)
    return (
        f"{row['name']:<14} {row['metric']} plain {theirs:.4f}, ours {ours:.4f} ({by:+.1f} se), {row['winner']}, {row['seconds']['run']} s"
    )

"""Same input, same bytes: no stage's result hangs on CPUs, on blocks, on how the rows lie in files, or on what ran before.

Each group of cases runs in a process of its own, with its own seed of Python's hashes: this file, started as a script.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROWS = 2_000
STAGES = ("ingest", "prepare", "sweep", "evaluate", "score")
RUN = (
    "dataset=shop",
    "deploy=none",
    "sweep.num_trials=4",
    "sweep.folds=2",
    "trainer.xgboost.num_rounds=12",
    "trainer.lightgbm.num_rounds=12",
    "trainer.mlp.num_epochs=2",
    "score.by=size",
    "score.keep=[colour]",
)
DATASET = """
name: shop
contract: shop
source: {_target_: tables.sources.files.Files, path: "???"}
split: {_target_: tables.splits.HashSplit}
slices: [colour]
"""
CONTRACT = """
name: shop
task: binary
label: bought
positive: "yes"
key: [id]
columns:
  id: {type: int64, role: key, nullable: false}
  bought: {type: string, role: label, nullable: false}
  price: {type: double, min: 0}
  weight: {type: double}
  stock: {type: int64}
  colour: {type: string}
  size: {type: string, nullable: false}
  day: {type: date}
"""


@dataclass(frozen=True)
class Case:
    """One run: of the table as it lies in `layout`, in the folder `store`; `block_bytes` is the largest block that Ray Data may make."""

    name: str
    layout: str = "one"
    block_bytes: int | None = None
    store: str = ""
    cache: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a run recorded of its stages, and how many files the rows of its snapshot lie in."""

    outputs: dict[str, dict[str, str]]
    inputs: dict[str, dict[str, str | None]]
    ran: list[str]
    families: list[str]
    files: int


BASE = Case("base")
AGAIN = Case("again, without the cache", store="base", cache=False)
SMALL_BLOCKS, TINY_BLOCKS = Case("small blocks", block_bytes=40_000), Case("tiny blocks", block_bytes=9_000)
ONE_CPU, FOUR_CPUS = (
    Case("one CPU and seven files of shuffled rows", "seven"),
    Case("four CPUs and files of other sizes and names", "renamed"),
)
# By process: the logical CPUs of its Ray, the threads that the environment grants its libraries, and the runs it makes.
GROUPS = {
    "two": (2, None, [BASE, AGAIN, SMALL_BLOCKS, TINY_BLOCKS]),
    "one": (1, "1", [ONE_CPU]),
    "four": (4, "3", [FOUR_CPUS]),
}


def shop() -> pd.DataFrame:
    """Numbers with gaps, categories with a rare one, dates, one row that breaks the contract, twins; a label that hangs on most of them."""
    random = np.random.default_rng(7)
    price, weight = random.lognormal(2, 1, ROWS).round(2), random.normal(50, 9, ROWS)
    colour = random.choice(["red", "green", "blue", "ünusual", "rare"], ROWS, p=[0.4, 0.3, 0.2, 0.095, 0.005])
    size, stock = random.choice(["S", "M", "L"], ROWS), random.integers(0, 40, ROWS)
    day = pd.Timestamp("2024-01-01") + pd.to_timedelta(random.integers(0, 500, ROWS), unit="D")
    signal = np.log(price) - 2 + (weight - 50) / 9 + (colour == "red") + random.normal(0, 1, ROWS)
    table = pd.DataFrame(
        {
            "id": random.permutation(ROWS) * 17,
            "bought": np.where(signal > 0.4, "yes", "no"),
            "price": pd.Series(price).mask(random.random(ROWS) < 0.05),
            "weight": weight,
            "stock": pd.Series(stock, dtype="Int64").mask(random.random(ROWS) < 0.1),
            "colour": pd.Series(colour).mask(random.random(ROWS) < 0.03),
            "size": size,
            "day": pd.Series(day).dt.strftime("%Y-%m-%d").mask(random.random(ROWS) < 0.02),
        }
    )
    table.loc[11, "price"] = -1.0
    # Twins that equal each other, but for the sign of a zero.
    table.loc[:99, "weight"] = -0.0
    return pd.concat([table, table.iloc[:100].assign(weight=0.0)], ignore_index=True)


def write_layouts(table: pd.DataFrame, folder: Path) -> None:
    """`one`: a file of all rows. `seven`: shuffled rows. `renamed`: pieces of very different sizes, the first rows last by name."""
    shuffled = table.sample(frac=1, random_state=3)
    bounds = {"z": (0, 3), "m": (3, 40), "B": (40, 900), "a": (900, len(table))}
    pieces = {
        "one": {"all": table},
        "seven": {f"part-{i}": shuffled.iloc[i::7] for i in range(7)},
        "renamed": {name: table.iloc[start:end] for name, (start, end) in bounds.items()},
    }
    for layout, files in pieces.items():
        (folder / layout).mkdir()
        for name, rows in files.items():
            rows.to_csv(folder / layout / f"{name}.csv", index=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the layouts, the configuration, and an empty tracking database, which takes longer to make than to copy."""
    from cluster.store import Store
    from ledger.tracking import Tracking

    folder = tmp_path_factory.mktemp("same")
    write_layouts(shop(), folder)
    for group, text in (("dataset", DATASET), ("contract", CONTRACT)):
        (folder / "conf" / group).mkdir(parents=True)
        (folder / "conf" / group / "shop.yaml").write_text(text)
    migrated = Store.open(folder / "migrated")
    Tracking.open(migrated)
    shutil.copy(migrated.root / "mlflow.db", folder / "mlflow.db")
    return folder


class Group:
    """The process of a group; it tells of each case as soon as that has ended."""

    def __init__(self, name: str, seed: int, place: Path) -> None:
        threads = GROUPS[name][1]
        limits = {variable: threads for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if threads}
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), **limits}
        self.log = place / f"{name}.log"
        with self.log.open("w") as log:
            command = [sys.executable, __file__, name]
            self.process = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        self.told: dict[str, Outcome] = {}

    def outcome(self, case: Case) -> Outcome:
        while case.name not in self.told:
            line = self.process.stdout.readline()  # type: ignore[union-attr]
            assert line, self.log.read_text()
            name, facts = json.loads(line)
            self.told[name] = Outcome(**facts)
        return self.told[case.name]

    def end(self) -> None:
        """End the process where a test gave up on it, and remove what its Ray left outside the folder."""
        from cluster.environment import Folders
        from cluster.store import Store

        self.process.kill()
        self.process.communicate()
        shutil.rmtree(Folders.of(Store.open(self.log.parent / f"ray-{self.log.stem}"), private=True).short, ignore_errors=True)


@pytest.fixture(scope="module")
def outcome(place: Path) -> Iterator[Callable[[Case], Outcome]]:
    """Asked for a case, what came of it. The groups run one after the other, each when it is first asked for."""
    groups: dict[str, Group] = {}

    def of(case: Case) -> Outcome:
        seed, name = next((seed, name) for seed, (name, (_, _, cases)) in enumerate(GROUPS.items()) if case in cases)
        if name not in groups:
            groups[name] = Group(name, seed, place)
        return groups[name].outcome(case)

    yield of
    for group in groups.values():
        group.end()


def carry_out(case: Case, place: Path) -> Outcome:
    """Run the stages of one case by the pipeline, and look up what it recorded."""
    from ray.data import DataContext

    from cluster.progress import Progress
    from cluster.store import Store
    from conf.compose import compose
    from flows import pipeline
    from flows.plan import Reuse, plan
    from ledger import records

    root = place / "stores" / (case.store or case.name.partition(",")[0].replace(" ", "-"))
    store = Store.open(root)
    if not (root / "mlflow.db").exists():
        shutil.copy(place / "mlflow.db", root / "mlflow.db")
    DataContext.get_current().target_max_block_size = case.block_bytes or 128 << 20
    composed = compose([*RUN, f"dataset.source.path={place / case.layout}"], place / "conf")
    made = pipeline.run(plan(composed, "score", Reuse(case.cache)), store, Progress(quiet=True))
    record = records.read(made.folder)
    assert made.ingested is not None
    assert made.swept is not None
    return Outcome(
        {stage.stage: stage.outputs for stage in record.stages},
        {stage.stage: stage.inputs for stage in record.stages},
        [stage.stage for stage in record.stages if stage.ran],
        [trial.family for trial in made.swept.trials],
        len(made.ingested.snapshot.files),
    )


@pytest.mark.parametrize("case", [case for _, _, cases in GROUPS.values() for case in cases[1:] or cases], ids=lambda case: case.name)
def test_every_stage_gives_the_same_digests(case: Case, outcome: Callable[[Case], Outcome]) -> None:
    base, other = outcome(BASE), outcome(case)
    found = {stage: other.outputs[stage] for stage in STAGES}
    assert found == {stage: base.outputs[stage] for stage in STAGES}
    assert other.families == base.families
    assert other.inputs["evaluate"] == base.inputs["evaluate"]
    assert (other.inputs["ingest"] == base.inputs["ingest"]) == (case.layout == "one"), "the source's fingerprint knows its files"


def test_the_cases_differ_where_they_should(outcome: Callable[[Case], Outcome]) -> None:
    """Else all this would prove nothing."""
    assert outcome(BASE).files == 1
    assert outcome(ONE_CPU).files == 7
    assert 1 < outcome(SMALL_BLOCKS).files < outcome(TINY_BLOCKS).files
    assert set(STAGES) <= set(outcome(AGAIN).ran)
    assert sorted(outcome(BASE).families) == ["lightgbm", "linear", "mlp", "xgboost"]


def main(group: str) -> None:
    """All cases of a group on one Ray; a line of stdout for the outcome of each."""
    from cluster.session import connect, leave, stay_connected
    from cluster.store import Store

    cpus, _, cases = GROUPS[group]
    place = Path.cwd()
    stay_connected()
    with connect(Store.open(place / f"ray-{group}"), num_cpus=cpus):
        for case in cases:
            print(json.dumps([case.name, asdict(carry_out(case, place))]), flush=True)
    leave()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])

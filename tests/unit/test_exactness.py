"""Every family in conf/trainer keeps the exactness that it declares: in fits, in files, in batches, and on other threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from omegaconf import OmegaConf
from threadpoolctl import threadpool_limits

from conf.targets import resolve
from tables.features import Feature
from trainers.protocol import Context, Exactness, Fitted, Matrix

ROOT = Path(__file__).parents[2]
TASKS = {"binary": 2, "multiclass": 11, "regression": 0}
# The most steps that any family needs here; a family has none of these, or one.
FEW_STEPS = {"num_rounds": 3, "num_epochs": 1}
BATCH, EXPLAINED = 4_096, 900


def declared() -> dict[str, Any]:
    """The class that each file of conf/trainer names; a new one is held to all of this without an edit."""
    nodes = {file.stem: OmegaConf.load(file) for file in sorted((ROOT / "conf/trainer").glob("*.yaml"))}
    return {name: resolve(node["_target_"]) for name, node in nodes.items() if "_target_" in node}


FAMILIES = declared()


@pytest.fixture(params=[(family, task) for family in FAMILIES for task in TASKS], ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@cache
def table(task: str, rows: int, seed: int) -> Matrix:
    """Numbers of very different sizes, one of them constant, and two categories; the label hangs on most of them."""
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(rows, 6)) * [1, 1e-3, 1e4, 1, 1, 0] + [0, 0, 1e6, 0, 0, 3]
    codes = [random.integers(0, levels, rows) for levels in (40, 3)]
    x = np.column_stack([numbers, *codes]).astype(np.float32)
    signal = x[:, 0] + x[:, 1] * 500 + (x[:, 6] % 3) + random.normal(size=rows) * 0.3
    classes = TASKS[task]
    y = np.searchsorted(np.quantile(signal, np.arange(1, classes) / classes), signal) if classes else signal
    features = [Feature(f"n{i}", "numeric", f"n{i}") for i in range(6)]
    features += [Feature(f"c{i}", "categorical", f"c{i}", levels) for i, levels in enumerate((40, 3))]
    return Matrix(x, y.astype(np.float64), tuple(features))


def fit(family: str, task: str) -> Fitted:
    trainer = FAMILIES[family]
    few = {name: steps for name, steps in FEW_STEPS.items() if hasattr(trainer.Params, name)}
    context = Context(task, max(TASKS[task], 1), seed=3, threads=1)  # type: ignore[arg-type]
    return trainer().fit(table(task, 1_200, 1), table(task, 300, 2), trainer.Params(**few), context)  # type: ignore[no-any-return]


@cache
def fitted(family: str, task: str) -> Fitted:
    return fit(family, task)


def answers(model: Fitted, x: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """Predictions for `x`, asked in batches of `size` rows."""
    return np.concatenate([model.predict(x[start : start + size]) for start in range(0, len(x), size)])


def saved(model: Fitted, folder: Path) -> dict[str, str]:
    model.save(folder)
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.rglob("*"))}


@pytest.fixture
def threads() -> Iterator[Any]:
    """A function that sets how many threads every library of this process may use, put back at the end."""
    import torch

    before = torch.get_num_threads()
    limits: list[threadpool_limits] = []

    def grant(count: int) -> None:
        torch.set_num_threads(count)
        limits.append(threadpool_limits(count))

    yield grant
    torch.set_num_threads(before)
    for limit in reversed(limits):
        limit.restore_original_limits()


def test_every_family_declares_how_exact_it_is() -> None:
    assert len(FAMILIES) >= 4
    for name, trainer in FAMILIES.items():
        assert isinstance(trainer.exactness, Exactness), name
        assert 0 <= trainer.exactness.tolerance < 1e-3, name


def test_two_fits_give_the_same_predictions_and_the_same_file(case: tuple[str, str], tmp_path: Path) -> None:
    """Bit-exact families promise their bytes; the others, as long as it is the same machine, give the same predictions all the same."""
    family, task = case
    one, two = fitted(family, task), fit(family, task)
    x = table(task, BATCH, 4).x
    np.testing.assert_array_equal(two.predict(x), one.predict(x))
    if FAMILIES[family].exactness.tolerance == 0:
        assert saved(two, tmp_path / "two") == saved(one, tmp_path / "one")


def test_a_model_from_its_file_predicts_the_same_bits(case: tuple[str, str], tmp_path: Path) -> None:
    family, task = case
    model, x = fitted(family, task), table(task, BATCH, 4).x
    model.save(tmp_path / "model")
    loaded = FAMILIES[family].Fitted.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    np.testing.assert_array_equal(loaded.contributions(x[:300]), model.contributions(x[:300]))


def test_a_row_is_answered_alike_alone_among_seven_and_among_thousands(case: tuple[str, str]) -> None:
    family, task = case
    model, x = fitted(family, task), table(task, BATCH, 4).x
    together = model.predict(x)
    # Rows of the beginning, the middle and the end: the last ones fall into the odd rest of whatever a library does at a time.
    some = np.r_[0:20, 2_000:2_020, BATCH - 17 : BATCH]
    tolerance = FAMILIES[family].exactness.tolerance
    np.testing.assert_allclose(answers(model, x[some], 1), together[some], rtol=0, atol=tolerance)
    np.testing.assert_allclose(answers(model, x[:700], 7), together[:700], rtol=0, atol=tolerance)
    np.testing.assert_allclose(model.predict(np.asfortranarray(x)), together, rtol=0, atol=tolerance)


def test_answers_and_explanations_do_not_hang_on_the_threads_of_the_process(case: tuple[str, str], threads: Any) -> None:
    family, task = case
    model, x = fitted(family, task), table(task, BATCH, 4).x
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append((model.predict(x), model.contributions(x[:EXPLAINED])))
    for predictions, contributions in found[1:]:
        np.testing.assert_array_equal(predictions, found[0][0])
        np.testing.assert_array_equal(contributions, found[0][1])


def test_fits_do_not_hang_on_the_threads_of_the_process(case: tuple[str, str], threads: Any) -> None:
    """Those that a fit may use are in its context, and so in the record; what else the process could use is in none."""
    family, task = case
    x = table(task, BATCH, 4).x
    threads(3)
    np.testing.assert_array_equal(fit(family, task).predict(x), fitted(family, task).predict(x))


PRINT_DIGESTS = """
import sys
sys.path.insert(0, sys.argv[1])
import test_exactness as here
for family in here.FAMILIES:
    for task in here.TASKS:
        model, x = here.fitted(family, task), here.table(task, here.BATCH, 4).x
        answers = model.predict(x), model.contributions(x[:300])
        print(family, task, *(here.hashlib.sha256(each.tobytes()).hexdigest() for each in answers))
"""


def test_another_process_with_other_hashes_and_threads_fits_the_same_models() -> None:
    """The environment is read once, when a library is loaded, so only a process of its own can tell."""
    environment = {**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-c", PRINT_DIGESTS, str(Path(__file__).parent)]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    told = {tuple(line.split()[:2]): line.split()[2:] for line in done.stdout.splitlines()}
    for family in FAMILIES:
        for task in TASKS:
            model, x = fitted(family, task), table(task, BATCH, 4).x
            here = [hashlib.sha256(each.tobytes()).hexdigest() for each in (model.predict(x), model.contributions(x[:300]))]
            assert told[family, task] == here, (family, task)

"""The four model families keep the trainer protocol, the laws, and their nerve on odd tables."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from conf.errors import UsageError
from tables.features import Feature
from trainers.lightgbm import LightGBM
from trainers.linear import Linear
from trainers.mlp import Mlp
from trainers.protocol import Context, Exactness, Matrix
from trainers.space import Choice, parse
from trainers.xgboost import XGBoost

FAMILIES = {"linear": Linear, "xgboost": XGBoost, "lightgbm": LightGBM, "mlp": Mlp}
STEPPED = {"xgboost": "num_rounds", "lightgbm": "num_rounds", "mlp": "num_epochs"}
QUICK = {
    "linear": {},
    "xgboost": {"num_rounds": 12, "min_child_weight": 1.0},
    "lightgbm": {"num_rounds": 12, "min_data_in_leaf": 5},
    "mlp": {"num_epochs": 2, "hidden": 16},
}
TASKS = [("binary", 2), ("multiclass", 4), ("regression", 0)]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def quick(family: str, **changes):
    return FAMILIES[family].Params(**{**QUICK[family], **changes})


def table(task="binary", classes=2, rows=400, numbers=4, levels=(7, 3), seed=1) -> Matrix:
    """The first and the last column carry the signal."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(size=(rows, numbers)), *(rng.integers(0, count, rows) for count in levels)]).astype(np.float32)
    signal = x[:, 0] + (x[:, -1] == 1) + rng.normal(size=rows) * 0.3
    y = signal if task == "regression" else np.searchsorted(np.quantile(signal, np.arange(1, classes) / classes), signal)
    kinds = [Feature(f"n{i}", "numeric", f"n{i}") for i in range(numbers)]
    return Matrix(x, y.astype(np.float64), (*kinds, *(Feature(f"c{i}", "categorical", f"c{i}", n) for i, n in enumerate(levels))))


def fit(family: str, train: Matrix, valid: Matrix | None = None, task="binary", classes=2, params=None, **context):
    return FAMILIES[family]().fit(train, valid, params or quick(family), Context(task, classes, seed=3, **context))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def assert_sound(predictions, rows: int, task: str, classes: int) -> None:
    assert predictions.dtype == np.float64
    assert predictions.shape == ((rows, classes) if task == "multiclass" else (rows,))
    assert np.isfinite(predictions).all()
    if task != "regression":
        assert ((predictions >= 0) & (predictions <= 1)).all()
    if task == "multiclass":
        np.testing.assert_allclose(predictions.sum(axis=1), 1, atol=1e-5)


def test_family_states_the_facts_of_the_protocol(family):
    trainer = FAMILIES[family]
    assert isinstance(trainer.exactness, Exactness) and trainer.streams is False
    with pytest.raises(TypeError):
        trainer.Params(1)
    assert trainer.Params() == trainer.Params()


def test_yaml_names_every_parameter_with_its_default_and_searches_within_its_range(family):
    node = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[2] / f"conf/trainer/{family}.yaml"))
    trainer, space = FAMILIES[family], node.pop("space")
    assert node.pop("_target_") == f"{trainer.__module__}.{trainer.__name__}"
    assert node.pop("resources") == {"cpu": 1, "gpu": 0}
    assert node == asdict(trainer.Params())
    for name, text in space.items():
        domain = parse(name, text)
        assert domain.holds(node[name]), name
        for end in domain.values if isinstance(domain, Choice) else (domain.low, domain.high):
            trainer.Params(**{name: end})


@pytest.mark.parametrize("module", FAMILIES)
def test_import_leaves_the_heavy_library_alone(module):
    code = f"import sys, trainers.{module}; print({{'xgboost', 'lightgbm', 'torch', 'sklearn', 'scipy'}} & set(sys.modules))"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("family", "wrong"),
    [
        ("linear", {"l2": 0}),
        ("linear", {"l2": float("nan")}),
        ("xgboost", {"learning_rate": 1.5}),
        ("xgboost", {"num_rounds": 0}),
        ("lightgbm", {"num_leaves": 1}),
        ("lightgbm", {"feature_fraction": 0}),
        ("mlp", {"dropout": 1.0}),
        ("mlp", {"batch_size": 0}),
    ],
)
def test_parameter_outside_its_range_is_refused_with_what_is_allowed(family, wrong):
    (name,) = wrong
    with pytest.raises(UsageError, match=rf"{family} parameter {name}(?s:.)*allowed: [<>](?s:.)*trainer\.{name}="):
        FAMILIES[family].Params(**wrong)


@pytest.mark.parametrize(("task", "classes"), TASKS)
def test_saved_model_comes_back_the_same(family, task, classes, tmp_path):
    train, valid = table(task, classes), table(task, classes, rows=150, seed=2)
    fitted = fit(family, train, valid, task, classes)
    fitted.save(tmp_path / "model")
    loaded = FAMILIES[family].Fitted.load(tmp_path / "model")
    assert_sound(fitted.predict(valid.x), 150, task, classes)
    np.testing.assert_array_equal(loaded.predict(valid.x), fitted.predict(valid.x))
    np.testing.assert_array_equal(loaded.contributions(valid.x), fitted.contributions(valid.x))
    assert loaded.steps == fitted.steps
    loaded.save(tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "model")


def test_same_seed_gives_the_same_bytes_whatever_ran_before(family, tmp_path):
    train, valid = table(), table(seed=2)
    for name in ("one", "two"):
        fit(family, train, valid).save(tmp_path / name)
        fit(family, table(seed=5), None)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.parametrize(("task", "classes"), TASKS)
def test_row_gets_the_same_answer_alone_and_in_any_batch(family, task, classes):
    fitted = fit(family, table(task, classes), None, task, classes)
    x = table(task, classes, rows=700, seed=4).x
    together = fitted.predict(x)
    alone = np.concatenate([fitted.predict(x[row : row + 1]) for row in range(0, 700, 7)])
    backwards = fitted.predict(np.ascontiguousarray(x[::-1]))[::-1]
    tolerance = FAMILIES[family].exactness.tolerance
    np.testing.assert_allclose(alone, together[::7], rtol=0, atol=tolerance)
    np.testing.assert_allclose(backwards, together, rtol=0, atol=tolerance)
    assert fitted.predict(x[:0]).shape == together[:0].shape


@pytest.mark.parametrize("family", STEPPED)
def test_validation_chooses_the_steps_and_a_refit_repeats_them(family):
    train = table(rows=300)
    valid = replace(table(rows=300, seed=2), y=np.random.default_rng(0).integers(0, 2, 300).astype(np.float64))
    params = quick(family, **{STEPPED[family]: 200, "patience": 2, "learning_rate": 0.2})
    seen: list[float] = []
    fitted = fit(family, train, valid, params=params, report=lambda done, _: seen.append(done))
    assert fitted.steps is not None
    assert fitted.steps + 2 == len(seen) < 200
    assert seen == sorted(seen) and seen[-1] == pytest.approx(len(seen) / 200)

    again = fit(family, train, None, params=params, steps=fitted.steps)
    assert again.steps == fitted.steps
    np.testing.assert_array_equal(again.predict(valid.x), fitted.predict(valid.x))


@pytest.mark.parametrize("family", STEPPED)
def test_without_validation_every_step_is_taken(family):
    assert fit(family, table()).steps == getattr(quick(family), STEPPED[family])
    assert fit(family, table(), table(seed=2), steps=3).steps == 3


def test_report_gives_the_predictions_as_of_now(family):
    valid = table(rows=90, seed=2)
    scores: list[np.ndarray] = []
    fitted = fit(family, table(), valid, report=lambda done, predict: scores.append(predict()))
    np.testing.assert_allclose(scores[(fitted.steps or 1) - 1], fitted.predict(valid.x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", STEPPED)
def test_report_ends_the_training_and_what_was_learnt_is_kept(family):
    fitted = fit(family, table(), None, params=quick(family, **{STEPPED[family]: 10}), report=lambda done, _: done >= 0.3)
    assert fitted.steps == 3
    assert_sound(fitted.predict(table().x), 400, "binary", 2)


@pytest.mark.parametrize(("task", "classes"), TASKS)
def test_contributions_single_out_the_columns_with_the_signal(family, task, classes):
    train = table(task, classes, rows=1000)
    fitted = fit(family, train, None, task, classes)
    given = fitted.contributions(train.x)
    assert given.shape == (1000, 6) and given.dtype == np.float64
    assert set(np.argsort(-np.abs(given).mean(axis=0))[:2]) == {0, 5}


@pytest.mark.parametrize(("task", "classes"), TASKS)
@pytest.mark.parametrize("family", ["linear", "xgboost", "lightgbm"])
def test_contributions_and_bias_add_up_to_the_raw_score(family, task, classes):
    train = table(task, classes)
    fitted = fit(family, train, None, task, classes)
    predictions, added = fitted.predict(train.x), fitted.contributions(train.x).sum(axis=1)
    raw = raw_scores(fitted, train.x).reshape(len(added), -1)
    chosen = predictions.argmax(axis=1) if task == "multiclass" else np.zeros(len(added), dtype=int)
    bias = raw[np.arange(len(added)), chosen] - added
    for output in set(chosen):
        np.testing.assert_allclose(bias[chosen == output], bias[chosen == output][0], atol=1e-4)


def raw_scores(fitted, x):
    match type(fitted).__name__:
        case "FittedXGBoost":
            return fitted.booster.inplace_predict(x, predict_type="margin") * fitted.scale
        case "FittedLightGBM":
            return fitted.booster.predict(x, raw_score=True)
        case _:
            return fitted.raw(x)


def odd_tables() -> dict[str, tuple[Matrix, str, int]]:
    plain, number = table(), table("regression")
    rarely_seen = (*plain.features[:5], Feature("c1", "categorical", "c1", 50))
    return {
        "one number": (table(numbers=1, levels=()), "binary", 2),
        "one category": (table(numbers=0, levels=(9,)), "binary", 2),
        "only categories": (table(numbers=0, levels=(9, 4, 30)), "binary", 2),
        "only numbers": (table(levels=()), "binary", 2),
        "ten rows": (table(rows=10), "binary", 2),
        "ten rows, three classes": (table("multiclass", 3, rows=10), "multiclass", 3),
        "ten rows, a number": (table("regression", rows=10), "regression", 0),
        "hundred classes": (table("multiclass", 100, rows=1000), "multiclass", 100),
        "constant column": (replace(plain, x=np.where(np.arange(6) == 1, np.float32(0.1), plain.x)), "binary", 2),
        "all columns constant": (replace(plain, x=np.ones((400, 6), np.float32)), "binary", 2),
        "one level": (table(levels=(1, 3)), "binary", 2),
        "levels without rows": (replace(plain, features=rarely_seen), "binary", 2),
        "rare positive": (replace(plain, y=(np.arange(400) == 7).astype(np.float64)), "binary", 2),
        "no positive": (replace(plain, y=np.zeros(400)), "binary", 2),
        "class without training rows": (table("multiclass", 3), "multiclass", 4),
        "two of four classes": (plain, "multiclass", 4),
        "huge target": (replace(number, y=number.y * 1e9 + 1e12), "regression", 0),
        "tiny target": (replace(number, y=number.y * 1e-9), "regression", 0),
        "constant target": (replace(number, y=np.full(400, 5.0)), "regression", 0),
        "wide": (table(rows=60, numbers=2100, levels=(3,)), "binary", 2),
    }


@pytest.mark.parametrize("case", odd_tables())
def test_odd_table_is_learnt_in_silence(family, case, capfd, recwarn):
    train, task, classes = odd_tables()[case]
    valid = Matrix(train.x[:5], train.y[:5], train.features)  # few rows, so that classes are missing here
    fitted = fit(family, train, valid, task, classes)
    assert_sound(fitted.predict(train.x), len(train.x), task, classes)
    assert np.isfinite(fitted.contributions(train.x)).all()
    assert capfd.readouterr() == ("", "")
    assert not [str(warning.message) for warning in recwarn]


def test_fits_on_two_threads_agree_with_each_other(family, tmp_path):
    for name in ("one", "two"):
        fit(family, table(rows=3000), table(seed=2), threads=2).save(tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_regression_learns_at_any_scale(family, scale):
    train = table("regression", rows=2000)
    train = replace(train, y=(train.y + 100) * scale)
    fitted = fit(family, train, None, "regression", 0, params=FAMILIES[family].Params())
    assert np.var(train.y - fitted.predict(train.x)) < 0.2 * np.var(train.y)


def test_code_without_training_rows_is_answered(family):
    train = replace(table(), features=(*table().features[:5], Feature("c1", "categorical", "c1", 50)))
    x = train.x.copy()
    x[:, 5] = 49
    assert_sound(fit(family, train).predict(x), 400, "binary", 2)


def test_mlp_fit_leaves_torch_as_it_was():
    torch = importlib.import_module("torch")
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    fit("mlp", table(), threads=1)
    assert torch.equal(torch.random.get_rng_state(), before) and torch.get_num_threads() == threads

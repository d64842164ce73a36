"""A bundle: the same parts give the same bytes, any changed byte is refused, and a row is answered alike everywhere."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from conf.errors import RaycycleError, UsageError
from ledger import digests
from tables.checking import check_features
from tables.contract import Column, Contract
from tables.encoder import Encoder
from tables.sketches import sketch
from tables.target import Target, label_sketch
from trainers import bundle as module
from trainers.bundle import Bundle, write
from trainers.protocol import Context, Matrix

TRAINERS = {
    "linear": ("trainers.linear.Linear", {}),
    "xgboost": ("trainers.xgboost.XGBoost", {"num_rounds": 5, "min_child_weight": 1.0}),
    "lightgbm": ("trainers.lightgbm.LightGBM", {"num_rounds": 5, "min_data_in_leaf": 5}),
}
LABELS = {"binary": "string", "multiclass": "int64", "regression": "double"}


def contract(task: str) -> Contract:
    columns = {
        "number": Column(type="double"),
        "count": Column(type="int64", nullable=False),
        "word": Column(type="string"),
        "day": Column(type="date"),
        "after": Column(type="int64", role="observed"),
        "y": Column(type=LABELS[task], role="label", nullable=False),  # type: ignore[arg-type]
    }
    return Contract(name="t", task=task, label="y", columns=columns, positive="yes" if task == "binary" else None)  # type: ignore[arg-type]


def table(task: str, rows: int = 200) -> pa.Table:
    random = np.random.default_rng(0)
    number = random.normal(size=rows)
    label = {"binary": np.where(number > 0, "yes", "no"), "multiclass": np.digitize(number, [-0.5, 0.5]), "regression": np.exp(number)}[
        task
    ]
    return pa.table(
        {
            "number": pa.array(number, mask=random.random(rows) < 0.1),
            "count": random.integers(0, 9, rows),
            "word": random.choice(["a", "b", "ü"], rows),
            "day": pa.array([dt.date(2020, 1, 1) + dt.timedelta(days=int(d)) for d in random.integers(0, 300, rows)]),
            "after": random.integers(0, 9, rows),
            "y": pa.array(label.tolist()),
        }
    )


def build(folder: Path, family: str = "linear", task: str = "binary") -> str:
    from conf.targets import resolve

    rows, wanted = table(task), contract(task)
    reference = {name: sketch(rows[name].combine_chunks()) for name in wanted.features}
    encoder = Encoder.fit(wanted, reference, time_column=None, max_levels=9, min_rows=1)
    target = replace(Target.of(wanted, label_sketch(wanted, rows["y"].combine_chunks())), log=task == "regression")
    name, params = TRAINERS[family]
    trainer = resolve(name)()
    train = Matrix(encoder.encode(rows), target.forward(target.encode(rows["y"].combine_chunks())), encoder.features)
    fitted = trainer.fit(train, None, trainer.Params(**params), Context(task, max(len(target.classes), 1), seed=1))  # type: ignore[arg-type]
    return write(
        folder,
        name="t",
        trainer=name,
        family=family,
        params=params,
        contract=wanted,
        encoder=encoder,
        fitted=fitted,
        target=target,
        threshold=0.4,
        golden=rows.slice(0, module.GOLDEN_ROWS),
        reference=reference,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Path, str]]:
    root = tmp_path_factory.mktemp("bundles")
    pairs = [(family, "binary") for family in TRAINERS] + [("linear", "multiclass"), ("linear", "regression"), ("xgboost", "multiclass")]
    return {(family, task): (root / f"{family}-{task}", build(root / f"{family}-{task}", family, task)) for family, task in pairs}


def changed(made: dict, tmp_path: Path) -> Path:
    """A copy of the linear bundle to damage."""
    folder = tmp_path / "copy"
    for file in made["linear", "binary"][0].rglob("*"):
        if file.is_file():
            to = folder / file.relative_to(made["linear", "binary"][0])
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(file.read_bytes())
    return folder


def test_what_was_written_opens_and_answers_its_golden_rows(made: dict) -> None:
    for (family, task), (folder, digest) in made.items():
        opened = Bundle.open(folder, digest)
        opened.check_golden()
        assert (opened.digest, opened.name, opened.task, opened.manifest.family) == (digest, "t", task, family)
        assert opened.contract == contract(task)
        assert opened.golden.column_names == [*contract(task).features, "_scores"]
        json.dumps(opened.example)


def test_the_same_parts_give_the_same_bytes(made: dict, tmp_path: Path) -> None:
    for family in TRAINERS:
        folder, digest = made[family, "binary"]
        assert build(tmp_path / family, family) == digest
        assert digests.of_folder(tmp_path / family) == digests.of_folder(folder)


def test_nothing_in_a_bundle_is_a_pickle(made: dict) -> None:
    for folder, _ in made.values():
        kinds = {file.suffix for file in folder.rglob("*") if file.is_file()}
        assert kinds <= {".json", ".yaml", ".arrow", ".safetensors", ".ubj", ".txt"}
        for file in folder.rglob("*"):
            assert not file.is_file() or file.read_bytes()[:1] != b"\x80"


def test_any_changed_byte_of_any_file_is_refused(made: dict, tmp_path: Path) -> None:
    folder = changed(made, tmp_path)
    digest = made["linear", "binary"][1]
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) == 7
    for file in files:
        kept = file.read_bytes()
        for at in sorted({0, len(kept) // 2, len(kept) - 1}):
            file.write_bytes(kept[:at] + bytes([kept[at] ^ 1]) + kept[at + 1 :])
            with pytest.raises(RaycycleError, match=r"differs from its digest|not the one registered"):
                Bundle.open(folder, digest)
        file.write_bytes(kept + b"\n")
        with pytest.raises(RaycycleError, match=r"differs from its digest|not the one registered"):
            Bundle.open(folder, digest)
        file.unlink()
        with pytest.raises(RaycycleError, match=r"differs from its digest|not the one registered"):
            Bundle.open(folder, digest)
        file.write_bytes(kept)
    Bundle.open(folder, digest).check_golden()


def test_a_file_put_among_the_models_own_is_refused_and_one_beside_them_is_not(made: dict, tmp_path: Path) -> None:
    folder = changed(made, tmp_path)
    (folder / "MLmodel").write_text("flavors: {}")
    Bundle.open(folder, made["linear", "binary"][1])
    (folder / "model" / "model.pkl").write_bytes(b"\x80")
    with pytest.raises(RaycycleError, match=r"model\.pkl differs"):
        Bundle.open(folder, made["linear", "binary"][1])


def test_another_bundle_than_the_registered_one_is_refused(made: dict) -> None:
    with pytest.raises(RaycycleError, match="not the one registered"):
        Bundle.open(made["xgboost", "binary"][0], made["linear", "binary"][1])


@pytest.mark.parametrize(
    "change",
    [
        {"trainer": "subprocess.Popen"},
        {"trainer": "trainers.bundle.Path"},
        {"trainer": "trainers.linear.Nothing"},
        {"trainer": "trainers.bundle.Manifest"},
        {"more": 1},
        {"format": 2},
        {"task": "guess"},
        {"classes": "no"},
        {"files": {}},
    ],
)
def test_a_manifest_of_another_kind_is_refused_even_without_a_digest_to_compare(made: dict, tmp_path: Path, change: dict) -> None:
    folder = changed(made, tmp_path)
    file = folder / "bundle.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RaycycleError):
        Bundle.open(folder)


def test_other_golden_scores_are_noticed(made: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Bundle.open(*made["linear", "binary"])
    weaker = replace(opened, fitted=replace(opened.fitted, intercept=opened.fitted.intercept + 1e-3))
    with pytest.raises(RaycycleError, match="golden predictions do not match"):
        weaker.check_golden()


def test_a_row_has_the_same_bits_alone_and_in_any_batch(made: dict) -> None:
    for (_, task), (folder, digest) in made.items():
        opened = Bundle.open(folder, digest)
        checked = check_features(opened.contract, table(task))
        assert checked.bad.num_rows == 0
        rows = checked.typed
        whole = opened.scores(rows)
        for size in (1, 7, 64):
            pieces = [opened.scores(rows.slice(at, size)) for at in range(0, 70, size)]
            assert np.concatenate(pieces)[:70].tobytes() == whole[:70].tobytes()
        assert opened.predict(rows.slice(0, 0)).num_rows == 0


@pytest.mark.parametrize(
    ("task", "columns", "kind"),
    [
        ("binary", ["prediction", "score"], pa.string()),
        ("multiclass", ["prediction", "score_0", "score_1", "score_2"], pa.int64()),
        ("regression", ["prediction"], pa.float64()),
    ],
)
def test_answers_have_the_columns_that_scripts_rely_on(made: dict, task: str, columns: list[str], kind: pa.DataType) -> None:
    opened = Bundle.open(*made["linear", task])
    answer = opened.predict(check_features(opened.contract, table(task)).typed)
    assert answer.schema.names == columns
    assert answer.schema.field("prediction").type == kind
    if task == "binary":
        assert answer["prediction"].to_pylist() == ["yes" if score >= 0.4 else "no" for score in answer["score"].to_pylist()]
        assert answer["score"].to_pylist() == opened.scores(check_features(opened.contract, table(task)).typed).tolist()
    elif task == "multiclass":
        shares = np.column_stack([answer[name] for name in columns[1:]])
        assert answer["prediction"].to_pylist() == shares.argmax(axis=1).tolist()
    else:
        assert np.corrcoef(answer["prediction"], table(task)["y"])[0, 1] > 0.5, "not in the label's unit"
        assert min(answer["prediction"].to_pylist()) > -1


def test_rows_that_cannot_be_used_are_marked_and_the_others_answered(made: dict) -> None:
    opened = Bundle.open(*made["linear", "binary"])
    given = pa.table({"count": ["1", "two", None, "4"], "number": ["0.5", "1", "1", None], "more": [0] * 4})
    checked = check_features(opened.contract, given)
    assert checked.is_good.to_pylist() == [True, False, False, True]
    assert checked.reason.to_pylist()[1:3] == ["count is not a int64", "count is null"]
    assert checked.typed.schema == opened.input_schema()
    assert checked.typed["word"].null_count == 4, "a nullable column may be left out"
    with pytest.raises(UsageError, match=r"no such column \(did you mean 'counts'\?\): 'count'"):
        check_features(opened.contract, pa.table({"counts": [1]}))


def test_mlflow_gets_the_same_answers(made: dict) -> None:
    folder, digest = made["xgboost", "binary"]
    loaded = module._load_pyfunc(str(folder))
    answer = loaded.predict(table("binary").to_pandas())
    assert isinstance(answer, pd.DataFrame)
    opened = Bundle.open(folder, digest)
    assert answer["score"].tolist() == opened.scores(check_features(opened.contract, table("binary")).typed).tolist()
    with pytest.raises(RaycycleError, match="break the contract"):
        loaded.predict(pd.DataFrame({"count": ["x"], "number": [1.0], "word": ["a"], "day": ["2020-01-01"]}))


def test_plugins_of_a_manifest_are_named_by_the_writer_only(tmp_path: Path) -> None:
    build(tmp_path / "b")
    file = tmp_path / "b" / "bundle.json"
    digest = digests.of_file(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"plugins": ["subprocess"], "trainer": "subprocess.Popen"}))
    with pytest.raises(RaycycleError, match="not the one registered"):
        Bundle.open(tmp_path / "b", digest)


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(RaycycleError, match="not the one registered"):
        Bundle.open(tmp_path)

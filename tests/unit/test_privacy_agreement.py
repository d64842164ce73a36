"""Rows with personal columns are answered alike by training, the bundle, batch scoring and the endpoint: one definition of a treatment."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.store import Store
from conf.errors import RaycycleError
from flows.score import Shard, score_shard, takes
from ledger.registry import Registered
from serve.batching import Limits
from serve.errors import HttpError
from serve.models import Release, ServedModel
from tables.checking import check
from tables.contract import Column, Contract
from tables.encoder import Encoder
from tables.privacy.keys import Keyring
from tables.privacy.treatment import pinned, treat, treated_contract
from tables.sketches import sketch
from tables.sources.files import Files
from tables.target import Target, label_sketch
from trainers.bundle import Bundle, write
from trainers.linear import Linear
from trainers.protocol import Context, Matrix

CONTRACT = Contract(
    name="people",
    task="binary",
    label="y",
    positive="yes",
    key=["id"],
    columns={
        "id": Column(type="string", role="key", nullable=False, privacy_class="personal", treatment="hash"),
        "surname": Column(type="string", nullable=False, pattern="[A-Z][a-z]+", privacy_class="personal", treatment="hash"),
        "age": Column(type="int64", nullable=False, min=18, privacy_class="personal", treatment={"generalise": {"band": 10}}),
        "born": Column(type="date", privacy_class="personal", treatment={"generalise": {"to": "year"}}),
        "phone": Column(type="string", privacy_class="personal", treatment={"mask": {"keep": 2}}),
        "income": Column(type="double", privacy_class="sensitive", treatment={"generalise": {"width": 500}}),
        "shop": Column(type="string"),
        "y": Column(type="string", role="label", nullable=False),
    },
)


def raw(rows: int = 300) -> pa.Table:
    random = np.random.default_rng(0)
    ages = random.integers(18, 90, rows)
    return pa.table(
        {
            "id": [f"person-{number}" for number in range(rows)],
            "surname": random.choice(["Canaryson", "Finchley", "Robinsky", "Wrenfeld"], rows),
            "age": ages,
            "born": pa.array([None if n % 9 == 0 else int(n * 31) for n in range(rows)], pa.int32()).cast(pa.date32()),
            "phone": [f"+49 30 9018{number % 100:02d}" for number in range(rows)],
            "income": random.normal(3000, 900, rows),
            "shop": random.choice(["a", "b"], rows),
            "y": np.where(ages + random.normal(0, 10, rows) > 50, "yes", "no"),
        }
    )


class Made:
    """A bundle as `prepare` and `evaluate` make it from treated rows, and what training itself says of all rows."""

    def __init__(self, folder: Path) -> None:
        self.keyring = Keyring(Store.open(folder / "home"))
        self.contract = pinned(CONTRACT, self.keyring)
        treated = treated_contract(self.contract)
        self.treated = treat(self.contract, check(self.contract, raw()).good, self.keyring)
        reference = {name: sketch(self.treated[name].combine_chunks()) for name in treated.features}
        encoder = Encoder.fit(treated, reference, time_column=None, max_levels=9, min_rows=1)
        labels = self.treated["y"].combine_chunks()
        target = replace(Target.of(treated, label_sketch(treated, labels)), log=False)
        train = Matrix(encoder.encode(self.treated), target.encode(labels), encoder.features)
        fitted = Linear().fit(train, None, Linear.Params(), Context("binary", 2, seed=1))
        self.scores = target.backward(fitted.predict(train.x))
        self.folder = folder / "bundle"
        self.digest = write(
            self.folder,
            name="people",
            trainer="trainers.linear.Linear",
            family="linear",
            params={},
            contract=self.contract,
            encoder=encoder,
            fitted=fitted,
            target=target,
            threshold=0.5,
            golden=self.treated.slice(0, 8),
            reference=reference,
        )

    def registered(self) -> Registered:
        return Registered("people", 1, self.digest, self.folder, "run", True, ())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


def served(made: Made) -> ServedModel:
    def load(folder: Path, digest: str | None) -> Bundle:
        return Bundle.open(folder, digest, made.keyring)

    release = Release(name="people", version=1, folder=str(made.folder), digest=made.digest)
    return ServedModel.load(release, load, ThreadPoolExecutor(1), Limits())


def rows_as_json() -> bytes:
    rows: list[dict[str, Any]] = raw().drop_columns(["y", "id"]).to_pylist()
    return json.dumps({"rows": rows}, default=str).encode()


def test_training_bundle_batch_and_endpoint_agree_bit_for_bit(made: Made, tmp_path: Path) -> None:
    bundle = Bundle.open(made.folder, made.digest, made.keyring)
    bundle.check_golden()
    by_bundle = np.asarray(bundle.predict(check(made.contract, raw()).good).column("score"))

    pq.write_table(raw(), tmp_path / "rows.parquet")
    source = Files(path=str(tmp_path / "rows.parquet"))
    score_shard(Shard(0, str(tmp_path / "rows.parquet"), (0,)), source, made.registered(), [], tmp_path, made.keyring)
    batch = pq.read_table(tmp_path / "part-00000.parquet")

    endpoint = served(made)
    by_endpoint = [answer["score"] for answer in endpoint._predict(endpoint.decoder.decode(rows_as_json()))]

    assert np.array_equal(by_bundle, made.scores)
    assert np.array_equal(np.asarray(batch["score"]), made.scores)
    assert np.array_equal(np.array(by_endpoint), made.scores)
    assert batch["id"].to_pylist() == made.treated["id"].to_pylist()  # the key of the scores is that of the snapshot


def test_treated_rows_of_a_snapshot_are_scored_as_they_are(made: Made, tmp_path: Path) -> None:
    pq.write_table(made.treated, tmp_path / "rows.parquet")
    source = Files(path=str(tmp_path / "rows.parquet"))
    score_shard(Shard(0, str(tmp_path / "rows.parquet"), (0,)), source, made.registered(), ["age"], tmp_path, None)
    batch = pq.read_table(tmp_path / "part-00000.parquet")
    assert np.array_equal(np.asarray(batch["score"]), made.scores) and batch["age"].to_pylist() == made.treated["age"].to_pylist()


def test_no_file_of_a_bundle_holds_a_raw_value(made: Made) -> None:
    content = b"".join(file.read_bytes() for file in sorted(made.folder.rglob("*")) if file.is_file())
    assert not [word for word in (b"Canaryson", b"Finchley", b"person-1", b"+49 30") if word in content]
    assert made.keyring.current().encode() in content


def test_the_endpoint_describes_an_example_that_nobody_was_and_quotes_no_personal_value(made: Made) -> None:
    endpoint = served(made)
    example = endpoint.description()["example"]["rows"][0]
    assert example["age"] == 18 and example["surname"] == "text" and example["phone"] is None and example["shop"] in ("a", "b")
    with pytest.raises(HttpError) as refused:
        endpoint.decoder.decode(json.dumps({"rows": [{"surname": "Canaryson", "age": 17, "phone": 491234567}]}).encode())
    assert "17" not in str(refused.value.value) and "491234567" not in str(refused.value.value)


def test_a_model_of_another_key_does_not_take_rows_of_the_new_one(made: Made, tmp_path: Path) -> None:
    assert takes(made.registered(), made.contract) and not takes(None, made.contract)
    assert not takes(made.registered(), pinned(CONTRACT, Keyring(Store.open(tmp_path))))
    other = Bundle.open(made.folder, made.digest, Keyring(Store.open(tmp_path)))
    with pytest.raises(RaycycleError, match="key that these columns were hashed with is not here"):
        other.predict(check(made.contract, raw()).good)

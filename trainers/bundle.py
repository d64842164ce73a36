"""A model bundle: encoder, model, contract and golden rows in one folder, every file named by its SHA-256.

Opened alike by batch scoring, by the endpoint and by MLflow (as a model with this module as its loader).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.store import Store, read_json, write_atomic, write_json
from conf.errors import RaycycleError
from conf.targets import resolve
from ledger import digests
from tables.checking import check_features
from tables.contract import Contract
from tables.encoder import Encoder
from tables.features import Task
from tables.privacy.keys import Keyring
from tables.privacy.treatment import placeholder, treat, treated_contract, treatments
from tables.sketches import Sketch
from tables.target import Target, prediction_type
from trainers.protocol import Exactness, Fitted

if TYPE_CHECKING:
    import pandas as pd

# Other files, such as MLflow's description, may lie beside these; nothing but these is read.
PARTS = ("model", "encoder", "reference", "contract.yaml", "golden.arrow")
GOLDEN_ROWS = 32
# Golden predictions guard against damage, not against another processor's last bit.
GOLDEN_TOLERANCE = 1e-6


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`bundle.json`: what the bundle is and the digest of each of its files. Its own SHA-256 is the digest of the bundle.

    `reading` says how text files of training rows were read, where there were any, so that scoring reads its own alike.
    """

    name: str
    task: Task
    trainer: str
    family: str
    params: dict[str, Any]
    classes: list[str]
    log_target: bool
    threshold: float
    plugins: list[str]
    reading: dict[str, Any]
    lock_digest: str | None
    files: dict[str, str]
    format: Literal[1] = 1


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose bytes were checked. `digest` names it.

    Rows that come in are those of `contract`; `treated` is that of the rows that the encoder was fitted on.
    """

    folder: Path
    digest: str
    manifest: Manifest
    contract: Contract
    encoder: Encoder
    fitted: Fitted
    target: Target
    exactness: Exactness
    keyring: Keyring | None = None

    @classmethod
    def open(cls, folder: Path, digest: str | None = None, keyring: Keyring | None = None) -> Bundle:
        """Open the bundle in `folder`; `keyring` has the keys of columns that are hashed, by default that of the store used here.

        Raises RaycycleError when a file differs from its manifest, or the manifest is not `digest`.
        """
        found, manifest = verified(folder, digest)
        trainer = resolve(manifest.trainer, manifest.plugins)
        if not hasattr(trainer, "Fitted"):
            raise RaycycleError("the bundle names a class that is no trainer", value=manifest.trainer, next="register again")
        return cls(
            folder,
            found,
            manifest,
            Contract.load(folder / "contract.yaml"),
            Encoder.load(folder / "encoder"),
            trainer.Fitted.load(folder / "model"),
            Target(manifest.task, tuple(manifest.classes), manifest.log_target),
            trainer.exactness,
            keyring,
        )

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def task(self) -> Task:
        return self.manifest.task

    def input_schema(self) -> pa.Schema:
        """The feature columns a row must bring, in order."""
        return self.contract.schema(self.contract.features)

    @cached_property
    def treated(self) -> Contract:
        return treated_contract(self.contract)

    @cached_property
    def _treats(self) -> bool:
        return bool(treatments(self.contract).keys() & set(self.contract.features))

    def treat(self, rows: pa.RecordBatch | pa.Table) -> pa.RecordBatch | pa.Table:
        """Typed contract rows as the snapshot would hold them: treated as at ingest, with the keys of then."""
        if not self._treats:
            return rows
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        return treat(self.contract, table, self.keyring or Keyring(Store.open()))

    def scores(self, rows: pa.RecordBatch | pa.Table) -> NDArray[np.float64]:
        """Binary [rows] = P(positive); multiclass [rows, classes]; regression [rows] in the label's unit. For treated rows."""
        return self.target.backward(self.fitted.predict(self.encoder.encode(rows)))

    def predict(self, rows: pa.RecordBatch | pa.Table) -> pa.RecordBatch:
        """Columns `prediction`, and `score` (binary) or one `score_<class>` each (multiclass), for typed contract rows."""
        return self.answer(self.scores(self.treat(rows)))

    def answer(self, scores: NDArray[np.float64]) -> pa.RecordBatch:
        """Scores as the columns that every way of asking returns."""
        if self.task == "regression":
            return pa.record_batch({"prediction": pa.array(scores)})
        codes = (scores >= self.manifest.threshold).astype(np.int64) if self.task == "binary" else scores.argmax(axis=1)
        labels = {"prediction": self.target.decode(codes).cast(prediction_type(self.contract))}
        if self.task == "binary":
            return pa.record_batch({**labels, "score": pa.array(scores)})
        columns = zip(self.target.classes, scores.T, strict=True)
        return pa.record_batch({**labels, **{f"score_{each}": pa.array(np.ascontiguousarray(column)) for each, column in columns}})

    @cached_property
    def golden(self) -> pa.Table:
        """A few contract rows of the holdout, with the scores that the model gave them when it was new in `_scores`."""
        return _golden(self.folder)

    @cached_property
    def example(self) -> dict[str, Any]:
        """One valid row as JSON values."""
        return _example(self.folder, self.contract)

    def check_golden(self) -> None:
        """Raise RaycycleError when the golden rows no longer give the golden scores."""
        wanted = np.asarray(self.golden.column("_scores").combine_chunks().flatten()).reshape(self.golden.num_rows, -1)
        got = self.scores(self.golden).reshape(self.golden.num_rows, -1)
        tolerance = max(self.exactness.tolerance, GOLDEN_TOLERANCE)
        if got.shape != wanted.shape or not np.allclose(got, wanted, rtol=tolerance, atol=tolerance):
            worst = float(np.abs(got - wanted).max()) if got.shape == wanted.shape else got.shape
            raise RaycycleError("golden predictions do not match", value=worst, allowed=f"a difference of at most {tolerance:g}")


def example(folder: Path, digest: str) -> dict[str, Any]:
    """One valid row of the bundle in `folder`, as JSON values, without loading its model."""
    verified(folder, digest)
    return _example(folder, Contract.load(folder / "contract.yaml"))


def _golden(folder: Path) -> pa.Table:
    with pa.ipc.open_file(folder / "golden.arrow") as reader:
        return reader.read_all()


def _example(folder: Path, contract: Contract) -> dict[str, Any]:
    row = _golden(folder).select(contract.features).slice(0, 1).to_pylist()[0]
    # What was treated is no longer of the type that a row brings, or what anybody had.
    row |= {name: placeholder(contract.columns[name]) for name in treatments(contract) if name in row}
    return {name: value.isoformat() if isinstance(value, dt.date | dt.datetime) else value for name, value in row.items()}


def verified(folder: Path, wanted: str | None) -> tuple[str, Manifest]:
    """The digest and the manifest of the bundle in `folder`, after every file was compared with it. Raises RaycycleError."""
    found = digests.of_file(folder / "bundle.json") if (folder / "bundle.json").exists() else None
    if found is None or (wanted is not None and found != wanted):
        raise RaycycleError(
            f"the bundle in {folder} is not the one registered",
            value=found,
            allowed=wanted or "a bundle.json",
            next="raycycle model list",
        )
    try:
        manifest = msgspec.convert(read_json(folder / "bundle.json"), Manifest)
    except msgspec.ValidationError as error:
        raise RaycycleError(f"{folder / 'bundle.json'} is not a bundle of this version ({error})", next="register again") from None
    files = {path: sha256 for path, sha256 in digests.of_folder(folder).items() if path.split("/")[0] in PARTS}
    for path in sorted(files.keys() | manifest.files.keys()):
        if files.get(path) != manifest.files.get(path):
            raise RaycycleError(
                f"{folder / path} differs from its digest",
                value=files.get(path),
                allowed=manifest.files.get(path, "no such file"),
                next="restore the file, or register again",
            )
    return found, manifest


def write(
    folder: Path,
    *,
    name: str,
    trainer: str,
    family: str,
    params: dict[str, Any],
    contract: Contract,
    encoder: Encoder,
    fitted: Fitted,
    target: Target,
    threshold: float,
    golden: pa.Table,
    reference: dict[str, Sketch],
    plugins: tuple[str, ...] = (),
    reading: dict[str, Any] | None = None,
) -> str:
    """Write a bundle into the empty `folder` and return its digest. The same parts always give the same bytes.

    `golden` are treated rows, as the encoder takes them.
    """
    for part in ("model", "encoder", "reference"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    fitted.save(folder / "model")
    encoder.save(folder / "encoder")
    write_atomic(folder / "contract.yaml", contract.dump())
    write_json(folder / "reference" / "features.json", {column: sketch.to_json() for column, sketch in sorted(reference.items())})
    golden = golden.select(contract.features)
    scores = target.backward(fitted.predict(encoder.encode(golden))).reshape(golden.num_rows, -1)
    golden = golden.append_column("_scores", pa.array(list(scores), pa.list_(pa.float64())))
    with pa.ipc.new_file(folder / "golden.arrow", golden.schema) as writer:
        writer.write_table(golden)
    manifest = Manifest(
        name=name,
        task=contract.task,
        trainer=trainer,
        family=family,
        params=params,
        classes=list(target.classes),
        log_target=target.log,
        threshold=threshold,
        plugins=list(plugins),
        reading=reading or {},
        lock_digest=digests.lock_digest(),
        files=digests.of_folder(folder),
    )
    write_json(folder / "bundle.json", msgspec.to_builtins(manifest))
    return digests.of_file(folder / "bundle.json")


class _MlflowModel:
    """What `mlflow.pyfunc.load_model` returns the inside of."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        checked = check_features(self._bundle.contract, pa.Table.from_pandas(model_input, preserve_index=False))
        if checked.bad.num_rows:
            reasons = checked.bad.column("_reason").unique().to_pylist()
            raise RaycycleError(f"{checked.bad.num_rows} rows break the contract", value="; ".join(reasons[:5]), next="correct the rows")
        return self._bundle.predict(checked.typed).to_pandas()


def _load_pyfunc(path: str) -> _MlflowModel:
    return _MlflowModel(Bundle.open(Path(path)))

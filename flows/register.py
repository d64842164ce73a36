"""Write the evaluated model as a bundle and register it as a model version, alias `candidate`.

$ raycycle run experiment=flights --until register
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from cluster.progress import Progress
from flows.evaluate import Evaluation
from flows.prepare import Prepared
from ledger.registry import CANDIDATE, Registered, Registry
from ledger.tracking import Tracking
from tables.contract import Column
from trainers import bundle
from trainers.bundle import GOLDEN_ROWS, Bundle


def register(
    name: str,
    evaluation: Evaluation,
    prepared: Prepared,
    tracking: Tracking,
    registry: Registry,
    run_id: str,
    folder: Path,
    plugins: list[str],
    reading: dict[str, Any],
    progress: Progress,
) -> Registered:
    """The bundle as the next version of model `name`, kept in the run `run_id`; the same bytes again are the version that is there."""
    with progress.stage("register") as bar:
        draft = Path(tempfile.mkdtemp(prefix="bundle.", dir=folder))
        try:
            digest = write_bundle(name, evaluation, prepared, draft, plugins, reading)
            Bundle.open(draft, digest).check_golden()
            _describe_for_mlflow(draft, prepared, run_id)
            stored = tracking.log_folder(run_id, draft, "model")
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        tags = {"raycycle.trainer": evaluation.trial.family, "raycycle.run": run_id}
        made = registry.register(name, run_id, stored, digest, passed=evaluation.passed, tags=tags)
        made = registry.set_alias(made, CANDIDATE)
        bar.note = str(made)
        return made


def write_bundle(name: str, evaluation: Evaluation, prepared: Prepared, folder: Path, plugins: list[str], reading: dict[str, Any]) -> str:
    trial, family = evaluation.trial, evaluation.family
    return bundle.write(
        folder,
        name=name,
        trainer=family.target,
        family=family.name,
        params=msgspec.to_builtins(dataclasses.asdict(family.build_params(trial.params))),
        contract=prepared.contract,
        encoder=prepared.encoder,
        fitted=evaluation.fitted,
        target=evaluation.target,
        threshold=trial.threshold,
        golden=prepared.parts["holdout"].table.slice(0, GOLDEN_ROWS),
        reference=prepared.reference,
        plugins=tuple(plugins),
        reading=reading,
    )


def _describe_for_mlflow(folder: Path, prepared: Prepared, run_id: str) -> None:
    """An `MLmodel` file beside the bundle, so that `mlflow.pyfunc.load_model` opens it by our loader, without a pickle."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    kinds = {"string": DataType.string, "int64": DataType.long, "double": DataType.double, "bool": DataType.boolean}

    def kind(column: Column) -> Any:
        # pandas keeps whole numbers with gaps as floats, and MLflow takes either a long or a double, never both.
        return AnyType() if column.nullable and column.type == "int64" else kinds.get(column.type, DataType.datetime)

    columns: list[ColSpec | TensorSpec] = [
        ColSpec(kind(column), name, required=not column.nullable)
        for name, column in prepared.contract.columns.items()
        if column.role == "feature"
    ]
    model = Model(run_id=run_id, signature=ModelSignature(inputs=Schema(columns)))
    model.add_flavor("python_function", loader_module="trainers.bundle")
    model.save(str(folder / "MLmodel"))

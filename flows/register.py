"""Write the evaluated model as a bundle and register it as a model version, alias `candidate`.

$ raycycle run experiment=flights --until register
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cluster.progress import Progress
from flows.evaluation import Evaluation
from flows.stages import Stages
from ledger.registry import Registered, Registry
from ledger.spool import Spool
from tables.contract import Column, Contract
from trainers import bundle


def champion_of(name: str, registry: Registry, progress: Progress) -> Registered | None:
    """The version that answers now; with tracking down the last one known, which is said."""
    found = registry.champion_now(name)
    if found.stale:
        progress.say(f"tracking is down: {found.version or 'no version'} is the last champion known of {name}")
    return found.version


def register(name: str, evaluation: Evaluation, spool: Spool, stages: Stages) -> Registered | None:
    """The evaluated bundle as the next version of model `name`; the same bytes again are the version that is there.

    None when tracking is down: the spool registers it when it answers again.
    """
    started = time.monotonic()
    known = Registry(spool.tracking).known_now(name, evaluation.digest)
    if known:
        bundle.verified(known.folder, known.digest)  # a model that was damaged since is not "this very model"
        stages.progress.note("register", f"{known} is this very model")
        made: Registered | None = known
    else:
        with stages.progress.stage("register") as bar:
            described = evaluation.bundle / "MLmodel"
            if not described.exists():
                _describe_for_mlflow(evaluation.bundle, spool.run_id)
            tags = {"raycycle.trainer": evaluation.trial.family}
            made = spool.register(name, evaluation.bundle, evaluation.digest, passed=evaluation.passed, tags=tags)
            bar.note = str(made) if made else "waits in the spool: tracking is down"
    seconds = time.monotonic() - started
    stages.progress.seconds.setdefault("register", seconds)
    stages.act("register", str(made or "tracking is down"), seconds, {"model": evaluation.digest}, ran=known is None)
    return made


def _describe_for_mlflow(folder: Path, run_id: str) -> None:
    """An `MLmodel` file beside the bundle, so that `mlflow.pyfunc.load_model` opens it by our loader, without a pickle."""
    contract = Contract.load(folder / "contract.yaml")
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    kinds = {"string": DataType.string, "int64": DataType.long, "double": DataType.double, "bool": DataType.boolean}

    def kind(column: Column) -> Any:
        # pandas keeps whole numbers with gaps as floats, and MLflow takes either a long or a double, never both.
        return AnyType() if column.nullable and column.type == "int64" else kinds.get(column.type, DataType.datetime)

    columns: list[ColSpec | TensorSpec] = [
        ColSpec(kind(column), name, required=not column.nullable) for name, column in contract.columns.items() if column.role == "feature"
    ]
    model = Model(run_id=run_id, signature=ModelSignature(inputs=Schema(columns)))
    model.add_flavor("python_function", loader_module="trainers.bundle")
    model.save(str(folder / "MLmodel"))

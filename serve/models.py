"""The models that a replica holds: loaded and verified beside the one that answers, then swapped by reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pyarrow as pa

from serve.batching import Batcher, Limits
from serve.requests import Row, RowDecoder
from tables.contract import Contract
from tables.privacy.treatment import treatments

Answer = dict[str, Any]


class Model(Protocol):
    """What the endpoint needs of a bundle (`trainers.bundle.Bundle`)."""

    @property
    def contract(self) -> Contract: ...
    @property
    def task(self) -> str: ...
    @property
    def example(self) -> dict[str, Any]: ...
    def input_schema(self) -> pa.Schema: ...
    def predict(self, rows: pa.RecordBatch) -> pa.RecordBatch: ...
    def check_golden(self) -> None: ...


Loader = Callable[[Path, str | None], Model]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model as it is released: `folder` is the bundle's, `digest` its digest."""

    name: str
    version: int
    folder: str
    digest: str


class ServedModel:
    """One verified version with its queue. Requests that hold it finish on it, whatever is swapped in meanwhile."""

    def __init__(self, release: Release, model: Model, worker: Executor, limits: Limits) -> None:
        self.release, self.model = release, model
        self.decoder = RowDecoder(model.contract, model.input_schema())
        self.batcher: Batcher[Row, Answer] = Batcher(self._predict, worker, limits)

    @classmethod
    def load(cls, release: Release, loader: Loader, worker: Executor, limits: Limits) -> ServedModel:
        """Open the bundle, see that its golden rows still give the golden predictions, and that its own example is answered."""
        model = loader(Path(release.folder), release.digest)
        model.check_golden()
        served = cls(release, model, worker, limits)
        # An example of treated columns is made up: it has their types, but may break a pattern or a rule.
        body, real = msgspec.json.encode({"rows": [model.example]}), not treatments(model.contract)
        served._predict(served.decoder.decode(body, checked=real))
        return served

    def _predict(self, rows: Sequence[Row]) -> list[Answer]:
        answers = self.model.predict(self.decoder.batch(rows))
        names = answers.schema.names
        return [dict(zip(names, values, strict=True)) for values in zip(*(column.to_pylist() for column in answers.columns), strict=True)]

    def summary(self) -> dict[str, Any]:
        release = self.release
        return {"name": release.name, "version": release.version, "digest": release.digest, "task": self.model.task}

    def description(self) -> dict[str, Any]:
        return {
            **self.summary(),
            "inputs": self.decoder.describe(),
            "ignored": self.decoder.ignored,
            "example": {"rows": [self.model.example]},
            "contract": msgspec.to_builtins(self.model.contract),
        }

"""What `prepare` makes, as it is kept: matrices as arrays, judged rows in Arrow's format, encoder and sketches as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.store import read_json, write_atomic, write_json
from conf.compose import build
from ledger import digests
from tables.contract import Contract
from tables.encoder import Encoder
from tables.privacy.treatment import treated_contract
from tables.rows import array_digest, ordered_digest
from tables.sketches import LevelSketch, NumericSketch, Sketch
from tables.splits import HashSplit, Split
from tables.target import Target
from trainers.protocol import Matrix


@dataclass(frozen=True)
class Rows:
    """One part of the split: its matrix, the hash of each row's key (uint64 [rows]) and, where rows are judged (holdout, later), their
    contract rows; else a table without columns."""

    matrix: Matrix
    keys: NDArray[np.uint64]
    table: pa.Table

    def __len__(self) -> int:
        return len(self.matrix.y)

    @property
    def digest(self) -> str:
        names = [feature.name for feature in self.matrix.features]
        table = ordered_digest(self.table) if self.table.num_columns else ""
        return digests.of_value([names, array_digest(self.matrix.x, self.matrix.y, self.keys), table])


@dataclass(frozen=True)
class Prepared:
    """`parts` by name (train, valid, holdout, and later if there is one); `reference` are sketches of the training columns.

    `contract` is that of rows as they come in, `treated` that of the rows here. `can_fold`: rows are independent of time and group, so
    training rows may validate in turn.
    """

    contract: Contract
    encoder: Encoder
    target: Target
    parts: dict[str, Rows]
    reference: dict[str, Sketch]
    positive_share: float
    dropped_rows: int
    split: Split

    @cached_property
    def treated(self) -> Contract:
        return treated_contract(self.contract)

    @property
    def train(self) -> Matrix:
        return self.parts["train"].matrix

    @property
    def valid(self) -> Matrix:
        return self.parts["valid"].matrix

    @property
    def can_fold(self) -> bool:
        return isinstance(self.split, HashSplit) and self.split.by is None

    def save(self, folder: Path) -> dict[str, str]:
        """Write everything into the empty `folder`; returns the digest of each thing that later stages read."""
        write_atomic(folder / "contract.yaml", self.contract.dump())
        self.encoder.save(folder / "encoder")
        sketches = {name: sketch.to_json() for name, sketch in sorted(self.reference.items())}
        write_json(folder / "reference.json", sketches)
        kind = type(self.split)
        facts = {
            "format": 1,
            "target": dataclasses.asdict(self.target),
            "positive_share": self.positive_share,
            "dropped_rows": self.dropped_rows,
            "split": {"_target_": f"{kind.__module__}.{kind.__qualname__}", **_plain(dataclasses.asdict(self.split))},  # type: ignore[call-overload]
            "parts": list(self.parts),
        }
        write_json(folder / "prepared.json", facts)
        for name, part in self.parts.items():
            _save_rows(part, folder / "parts" / name)
        encoder = digests.of_file(folder / "encoder" / "encoder.json")
        outputs = {"encoder": encoder, "split": digests.of_value(facts), "reference": digests.of_value(sketches)}
        return outputs | {name: part.digest for name, part in self.parts.items()}

    @classmethod
    def load(cls, folder: Path, plugins: list[str]) -> Prepared:
        """Open what `save` wrote; the matrices stay on disk until they are read."""
        facts = read_json(folder / "prepared.json")
        encoder = Encoder.load(folder / "encoder")
        sketches = read_json(folder / "reference.json")
        target = facts["target"]
        return cls(
            contract=Contract.load(folder / "contract.yaml"),
            encoder=encoder,
            target=Target(target["task"], tuple(target["classes"]), target["log"]),
            parts={name: _load_rows(folder / "parts" / name, encoder) for name in facts["parts"]},
            reference={name: _sketch(each) for name, each in sketches.items()},
            positive_share=facts["positive_share"],
            dropped_rows=facts["dropped_rows"],
            split=build({key: _tuples(value) for key, value in facts["split"].items()}, plugins, "split"),
        )


def _save_rows(part: Rows, folder: Path) -> None:
    folder.mkdir(parents=True)
    arrays: dict[str, NDArray[Any]] = {"x": part.matrix.x, "y": part.matrix.y, "keys": part.keys}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    if part.table.num_columns:
        with pa.ipc.new_file(folder / "rows.arrow", part.table.schema) as writer:
            writer.write_table(part.table)


def _load_rows(folder: Path, encoder: Encoder) -> Rows:
    x, y, keys = (np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("x", "y", "keys"))
    table = pa.table({})
    if (folder / "rows.arrow").exists():
        with pa.memory_map(str(folder / "rows.arrow")) as source:
            table = pa.ipc.open_file(source).read_all()
    return Rows(Matrix(np.asarray(x), np.asarray(y), encoder.features), np.asarray(keys), table)


def _plain(value: Any) -> Any:
    """Values of a split as JSON: dates in ISO form."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


def _tuples(value: Any) -> Any:
    """Lists as the tuples that a frozen split holds."""
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def _sketch(plain: dict[str, Any]) -> Sketch:
    return NumericSketch.from_json(plain) if "codes" in plain else LevelSketch.from_json(plain)

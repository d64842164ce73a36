"""What `evaluate` finds out about a candidate, as it is kept: the bundle, its answers on the holdout, and everything judged by them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cluster.store import finite, read_json, write_atomic
from flows.gates import Verdict
from flows.leaks import Probe
from flows.trial import Trial
from ledger import digests
from tables.rows import array_digest
from tables.target import Target


@dataclass(frozen=True)
class Quality:
    """Metrics on a set of rows, with 95 % bootstrap intervals where they were asked for."""

    rows: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Evaluation:
    """Everything that was found out about the candidate in the folder `bundle`, whose digest is `digest`.

    `params` are all of its family's parameters; `champion` are the metrics of the version `champion_name` on the same rows;
    `later` are rows after the holdout, by group. `y`, `scores`: the holdout's labels and what the candidate answered.
    """

    bundle: Path
    digest: str
    trial: Trial
    params: dict[str, Any]
    target: Target
    holdout: Quality
    constant: dict[str, float]
    champion: dict[str, float] | None
    champion_name: str
    later: dict[str, Quality]
    slices: dict[str, dict[str, Quality]]
    calibration: list[dict[str, Any]]
    importance: dict[str, float]
    leaks: Probe
    verdicts: tuple[Verdict, ...]
    y: NDArray[np.float64]
    scores: NDArray[np.float64]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    def save(self, folder: Path) -> dict[str, str]:
        """Write everything into `folder`, where the bundle lies already; returns the digest of each thing that can be compared."""
        np.save(folder / "y.npy", self.y, allow_pickle=False)
        np.save(folder / "scores.npy", self.scores, allow_pickle=False)
        facts = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("bundle", "trial", "y", "scores")
        }
        # A gate may answer with numpy's numbers: `item` is their plain value.
        plain = finite(msgspec.to_builtins(facts, str_keys=True, enc_hook=lambda value: value.item()))
        kept = {"format": 1, "bundle": self.bundle.name, "trial": self.trial.to_json(), **plain}
        # Not sorted by key: importance falls, and groups stand in the order of their values.
        write_atomic(folder / "evaluation.json", json.dumps(kept, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        judged = {name: plain[name] for name in ("holdout", "constant", "later", "slices", "calibration", "importance", "leaks")}
        return {
            "model": self.digest,
            "scores": array_digest(self.scores),
            "metrics": digests.of_value(judged),
            "verdicts": digests.of_value(plain["verdicts"]),
        }

    @classmethod
    def load(cls, folder: Path) -> Evaluation:
        plain = read_json(folder / "evaluation.json")
        kinds: dict[str, Any] = {"target": Target, "holdout": Quality, "later": dict[str, Quality], "slices": dict[str, dict[str, Quality]]}
        kinds |= {"leaks": Probe, "verdicts": tuple[Verdict, ...], "calibration": list[dict[str, int | float]]}
        kinds |= {"constant": dict[str, float], "champion": dict[str, float] | None, "importance": dict[str, float]}
        facts: dict[str, Any] = {name: msgspec.convert(plain[name], kind, strict=False) for name, kind in kinds.items()}
        facts |= {name: plain[name] for name in ("digest", "params", "champion_name")}
        y, scores = (np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("y", "scores"))
        trial = Trial.from_json(plain["trial"])
        return cls(bundle=folder / plain["bundle"], trial=trial, y=np.asarray(y), scores=np.asarray(scores), **facts)

"""Neural family: binned numbers and embedded categories into a small dense network.

$ raycycle run trainer=mlp trainer.hidden=128
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from trainers.arrays import load_arrays, save_arrays
from trainers.columns import target_mean_and_scale
from trainers.outputs import to_predictions
from trainers.protocol import Context, Exactness, Matrix
from trainers.ranges import check
from trainers.sizes import epochs_for
from trainers.stopping import Stopping

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from tables.features import Task
    from trainers.network import Network, Shape


@dataclass(frozen=True, kw_only=True)
class MlpParams:
    """`batch_size` is a ceiling: a small table gets smaller batches, for about 100 of them an epoch.

    `num_epochs` null: by the number of rows (`trainers.sizes`). `patience` null: a third of the epochs.
    """

    num_epochs: int | None = None
    patience: int | None = None
    batch_size: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 0.5
    hidden: int = 64
    layers: int = 2
    dropout: float = 0.3

    def __post_init__(self) -> None:
        for name in ("num_epochs", "patience"):
            if getattr(self, name) is not None:
                check(self, name, at_least=1)
        check(self, "batch_size", at_least=1)
        check(self, "learning_rate", above=0, at_most=1)
        check(self, "weight_decay", at_least=0)
        check(self, "hidden", at_least=1, at_most=8192)
        check(self, "layers", at_least=1, at_most=16)
        check(self, "dropout", at_least=0, below=1)


@dataclass(frozen=True)
class FittedMlp:
    """`target` is the mean and scale of a regression's target, (0, 1) for a class."""

    task: Task
    shape: Shape
    network: Network
    target: tuple[float, float]
    steps: int | None

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        return _predictions(self.task, self.network, self.target, x)

    def contributions(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Slope times distance from the mean training input: a first-order answer, so it need not add up to the raw score."""
        return self.network.gradient_times_distance(x) * self.target[1]

    def save(self, folder: Path) -> None:
        arrays = {name: tensor.numpy() for name, tensor in self.network.state_dict().items()}
        save_arrays(folder, arrays, {"task": self.task, "shape": asdict(self.shape), "target": self.target, "steps": self.steps})

    @classmethod
    def load(cls, folder: Path) -> FittedMlp:
        import torch

        from trainers.network import Network, Shape

        arrays, facts = load_arrays(folder)
        shape = Shape(**{**facts["shape"], "levels": tuple(facts["shape"]["levels"])})
        with torch.random.fork_rng([]):  # fresh weights are drawn, and thrown away
            network = Network(shape)
        network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        return cls(facts["task"], shape, network.eval(), tuple(facts["target"]), facts["steps"])


class Mlp:
    """Two fits on one machine agree to the bit on the CPU; another processor or a GPU adds up in another order.

    `exactness` is for one fitted model answering on different machines. Two fits on different machines drift apart further.
    """

    Params: ClassVar = MlpParams
    Fitted: ClassVar = FittedMlp
    exactness: ClassVar = Exactness(tolerance=1e-5)
    streams: ClassVar = False

    def fit(self, train: Matrix, valid: Matrix | None, params: MlpParams, context: Context) -> FittedMlp:
        import torch

        from trainers.network import threads

        # Dropout draws from the global generator: seed it for this fit, then put it back.
        with threads(context.threads), torch.random.fork_rng([] if context.device == "cpu" else [context.device]):
            torch.manual_seed(context.seed)
            return _fit(train, valid, params, context)


def _fit(train: Matrix, valid: Matrix | None, params: MlpParams, context: Context) -> FittedMlp:
    import torch

    from trainers.network import Network, Shape

    levels = tuple(feature.levels if feature.kind == "categorical" else 0 for feature in train.features)
    outputs = context.num_classes if context.task == "multiclass" else 1
    shape = Shape(levels, params.hidden, params.layers, params.dropout, outputs)
    network = Network(shape)
    network.place_bins(train.x)
    network.to(context.device)
    x = torch.from_numpy(train.x).to(context.device)
    mean, scale = target = target_mean_and_scale(context.task, train.y)
    y = torch.from_numpy((train.y - mean) / scale).to(context.device, torch.long if context.task == "multiclass" else torch.float32)
    optimizer = torch.optim.AdamW(network.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay)
    epochs = params.num_epochs or epochs_for(len(train.y))
    stopping = Stopping(context, valid, epochs, params.patience or max(epochs // 3, 1))
    best: dict[str, torch.Tensor] = {}
    for epoch in range(1, stopping.max_steps + 1):
        # Falls with the epochs there may be, not with those the context asks for, so that a refit of fewer epochs walks the same way.
        optimizer.param_groups[0]["lr"] = params.learning_rate * max(1 - (epoch - 1) / epochs, 0.01)
        network.train()
        for batch in torch.randperm(len(x)).to(context.device).split(min(params.batch_size, max(16, len(x) // 100))):
            optimizer.zero_grad()
            _loss(context.task, network(x[batch]), y[batch]).backward()
            optimizer.step()
        network.eval()
        ends = stopping.after(epoch, lambda: _predictions(context.task, network, target, (valid or train).x))
        if stopping.kept == epoch:
            best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        if ends:
            break
    network.load_state_dict(best)
    network.find_centre(x)
    return FittedMlp(context.task, shape, network.cpu(), target, stopping.kept)


def _loss(task: Task, raw: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    if task == "multiclass":
        return functional.cross_entropy(raw, y)
    if task == "binary":
        return functional.binary_cross_entropy_with_logits(raw[:, 0], y)
    return functional.mse_loss(raw[:, 0], y)


def _predictions(task: Task, network: Network, target: tuple[float, float], x: NDArray[np.float32]) -> NDArray[np.float64]:
    mean, scale = target
    return to_predictions(task, network.raw(x) * scale + mean)

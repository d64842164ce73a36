"""The dense network of the `mlp` family; this module imports torch, so `trainers.mlp` opens it only where it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

BINS = 12
BLOCK = 256  # each prediction is computed in a block of this many rows: another shape may add up in another order


@contextmanager
def threads(count: int) -> Iterator[None]:
    """The number is global in torch: set it for a while, then put it back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Shape:
    """`levels` has one entry per feature: the number of codes of a category, 0 for a number."""

    levels: tuple[int, ...]
    hidden: int
    layers: int
    dropout: float
    outputs: int


class Network(nn.Module):
    """Numbers enter piecewise linearly encoded (Gorishniy et al. 2022, arXiv:2203.05556), categories as embeddings."""

    numbers: torch.Tensor
    lower: torch.Tensor
    width: torch.Tensor
    owners: torch.Tensor
    centre: torch.Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        numbers = [column for column, levels in enumerate(shape.levels) if not levels]
        self.categories = [column for column, levels in enumerate(shape.levels) if levels]
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.long), persistent=False)
        self.register_buffer("lower", torch.zeros(len(numbers), BINS))
        self.register_buffer("width", torch.ones(len(numbers), BINS))
        # Narrow on purpose: wider embeddings learn the training months by heart.
        widths = [min(16, 1 + round(shape.levels[column] ** 0.5 / 2)) for column in self.categories]
        self.embeddings = nn.ModuleList(
            nn.Embedding(shape.levels[column], width) for column, width in zip(self.categories, widths, strict=True)
        )
        owners = np.repeat([*numbers, *self.categories], [BINS] * len(numbers) + widths).astype(np.int64)
        self.register_buffer("owners", torch.from_numpy(owners), persistent=False)  # the feature each input belongs to
        self.register_buffer("centre", torch.zeros(len(owners)))
        dense: list[nn.Module] = []
        wide = len(owners)
        for _ in range(shape.layers):
            dense += [nn.Linear(wide, shape.hidden), nn.SiLU(), nn.Dropout(shape.dropout)]
            wide = shape.hidden
        self.outputs = shape.outputs
        self.dense = nn.Sequential(*dense, nn.Linear(wide, shape.outputs))

    def place_bins(self, x: NDArray[np.float32]) -> None:
        """Bins between quantiles of the training numbers; an empty bin gets infinite width, so that it always reads 0."""
        sample = x[:: max(1, len(x) // 20_000)][:, self.numbers.numpy()].astype(np.float64)
        edges = np.quantile(sample, np.linspace(0, 1, BINS + 1), axis=0).T.astype(np.float32)
        width = np.diff(edges, axis=1)
        self.lower.copy_(torch.from_numpy(np.ascontiguousarray(edges[:, :-1])))
        self.width.copy_(torch.from_numpy(np.where(width > 0, width, np.inf)))

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        numbers = ((x[:, self.numbers, None] - self.lower) / self.width).clamp(0, 1).flatten(1)
        embedded = [embed(x[:, column].long()) for column, embed in zip(self.categories, self.embeddings, strict=True)]
        return torch.cat([numbers, *embedded], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw: torch.Tensor = self.dense(self.inputs(x))
        return raw

    @torch.inference_mode()
    def raw(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Raw scores [rows, outputs]."""
        return self._in_blocks(self, x, self.outputs)

    def gradient_times_distance(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """[rows, features]: the slope of each row's largest output, times the row's distance from the mean input."""
        return self._in_blocks(self._slopes, x, x.shape[1])

    def _in_blocks(self, function: Callable[[torch.Tensor], torch.Tensor], x: NDArray[np.float32], width: int) -> NDArray[np.float64]:
        """`function` of all rows, always computed in full blocks by one thread, which is also the fastest on so small a net."""
        padded = np.zeros((-(-len(x) // BLOCK) * BLOCK, x.shape[1]), dtype=np.float32)
        padded[: len(x)] = x
        with threads(1):
            blocks = [function(block).cpu() for block in torch.from_numpy(padded).to(self.lower.device).split(BLOCK)] if len(x) else []
        return torch.cat([torch.empty(0, width), *blocks])[: len(x)].double().numpy()

    def _slopes(self, x: torch.Tensor) -> torch.Tensor:
        inputs = self.inputs(x).detach().requires_grad_()
        chosen = self.dense(inputs).max(dim=1).values.sum()
        (slope,) = torch.autograd.grad(chosen, inputs)
        return torch.zeros(x.shape, device=x.device).index_add_(1, self.owners, slope * (inputs.detach() - self.centre))

    @torch.no_grad()
    def find_centre(self, x: torch.Tensor) -> None:
        """The mean input of the training rows, from which contributions are measured."""
        total = torch.zeros(len(self.owners), dtype=torch.float64, device=x.device)
        for block in x.split(8192):
            total += self.inputs(block).sum(dim=0, dtype=torch.float64)
        self.centre.copy_(total / len(x))

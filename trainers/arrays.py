"""A model that is arrays and a few facts, as safetensors and JSON in one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

ARRAYS, FACTS = "model.safetensors", "model.json"


def save_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    # safetensors writes the buffer as it lies in memory, so a transposed view would come back wrong.
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / ARRAYS)
    (folder / FACTS).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def load_arrays(folder: Path) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    from safetensors.numpy import load_file

    return load_file(folder / ARRAYS), json.loads((folder / FACTS).read_text())

"""What all tests share: an empty store for each, and hypothesis without chance or clock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from cluster.store import Store

# A busy machine must not fail a test that is right, and a test must not fail by chance.
settings.register_profile("raycycle", deadline=None, derandomize=True)
settings.load_profile("raycycle")

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")

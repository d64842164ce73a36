"""Fixtures shared by all tests: one Ray session, and an empty store for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from cluster.store import Store

# A busy machine must not fail a test that is right, and a test must not fail by chance.
settings.register_profile("raycycle", deadline=None, derandomize=True)
settings.load_profile("raycycle")

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray with two logical CPUs for all integration tests that do not start a platform of their own."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")

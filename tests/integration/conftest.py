"""A platform of its own for the tests of this folder, and one run of the small main job that many of them look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from homes import SMALL, Home

from cluster import platform


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A folder that has its own `conf/` and `serve/`, as a user's may: they must never be taken for ours."""
    folder = tmp_path_factory.mktemp("home")
    for package in ("conf", "serve"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("raise ImportError('this is not the package you are looking for')\n")
    made = Home(folder)
    yield made
    platform.down(made.store)


@pytest.fixture(scope="session")
def main_job(home: Home) -> dict[str, Any]:
    """The main job, shrunk by overrides: four months, five trials over the four families, deployed."""
    return home.raycycle("run", *SMALL)

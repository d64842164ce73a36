"""The long suite under kill -9: `make chaos`.  $RAYCYCLE_KILLS says how many, $RAYCYCLE_SEED which ones."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from chaos.experiment import Experiment
from chaos.kills import Reference, Story, undisturbed

_stories: list[Story] = []


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment.make(tmp_path_factory.mktemp("chaos") / "home")


@pytest.fixture(scope="session")
def reference(experiment: Experiment) -> Reference:
    return undisturbed(experiment)


@pytest.fixture
def stories() -> Iterator[list[Story]]:
    yield _stories


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of what was killed, when, and how it went on."""
    if _stories:
        terminalreporter.write_line(Story.HEAD)
        for story in _stories:
            terminalreporter.write_line(story.line())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(int(os.environ.get("RAYCYCLE_KILLS", "40"))))

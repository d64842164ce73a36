"""kill -9 anywhere, run again: the same result as undisturbed.  $ make chaos"""

from __future__ import annotations

import os

import pytest
from chaos.experiment import Experiment
from chaos.kills import Moment, Reference, Story, survive


@pytest.mark.timeout(1200)
def test_a_killed_run_ends_like_an_undisturbed_one(experiment: Experiment, reference: Reference, stories: list[Story], number: int) -> None:
    seed = int(os.environ.get("RAYCYCLE_SEED", "1"))
    story = Story(Moment.drawn(seed, number), seed, number)
    stories.append(story)
    survive(experiment, reference, story)

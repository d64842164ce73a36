"""A sweep proposes the same trials whatever finishes first, and looks back only as far as it may."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import Search
from flows.search import MIN_AT_RUNG, Proposer, tune_searcher
from flows.trial import Proposal, Trial
from trainers.family import Family
from trainers.space import Choice, Interval

RUNGS = [0.1, 0.3]
FAMILIES = [
    Family("a", "t.a.A", {"x": 0.5, "k": 3}, {"x": Interval(0.0, 1.0), "k": Interval(1, 9, step=1)}),
    Family("b", "t.b.B", {"mode": "slow", "rate": 0.1}, {"mode": Choice(("fast", "slow")), "rate": Interval(0.01, 1.0, log=True)}),
]
LAG = 3


def proposer(
    num_trials: int = 20,
    families: list[Family] = FAMILIES,
    lag: int = LAG,
    seed: int = 0,
    log_targets: tuple[bool, ...] = (False,),
    **search: object,
) -> Proposer:
    return Proposer(families, Search(startup_trials=4, rungs=RUNGS, **search), num_trials, lag, seed, log_targets)  # type: ignore[arg-type]


def outcome(proposal: Proposal) -> Trial:
    """A trial whose result hangs on its proposal alone; every seventh fails, and losses above their bound stop."""
    rough = sum(value if isinstance(value, float) else len(str(value)) for value in proposal.params.values())
    rungs = {rung: rough + rung for rung in RUNGS}
    stopped = any(rungs[rung] > bound for rung, bound in proposal.bounds.items())
    status = "failed" if proposal.number % 7 == 5 else "stopped" if stopped else "finished"
    loss = math.inf if status == "failed" else rough
    plain = (proposal.number, proposal.family, proposal.params, proposal.log_target)
    return Trial(*plain, status, loss, {}, 0.5, None, {} if status == "failed" else rungs, 0.0)  # type: ignore[arg-type]


def drive(search: Proposer, random: np.random.Generator, concurrency: int) -> list[Proposal]:
    """Run a whole sweep whose running trials end in an order of chance."""
    made: list[Proposal] = []
    running: list[Proposal] = []
    while len(search.trials) < search.num_trials:
        while len(running) < concurrency and len(made) < search.num_trials and (next_one := search.propose()) is not None:
            made.append(next_one)
            running.append(next_one)
        assert running, "the sweep waits for a trial that nobody runs"
        search.tell(outcome(running.pop(int(random.integers(len(running))))))
    return made


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.integers(1, LAG))
def test_the_order_in_which_trials_finish_changes_nothing(seed: int, concurrency: int) -> None:
    wanted = drive(proposer(), np.random.default_rng(0), 1)
    assert drive(proposer(), np.random.default_rng(seed), concurrency) == wanted


def until_killed(search: Proposer, random: np.random.Generator, concurrency: int, ends: int) -> dict[int, Trial]:
    """The trials that ended before the process died: `ends` of them, in an order of chance; those that ran are lost."""
    running: list[Proposal] = []
    while len(search.trials) < min(ends, search.num_trials):
        while len(running) < concurrency and (next_one := search.propose()) is not None:
            running.append(next_one)
        search.tell(outcome(running.pop(int(random.integers(len(running))))))
    return dict(search.trials)


def go_on(known: dict[int, Trial], random: np.random.Generator, concurrency: int, **more: object) -> tuple[Proposer, list[Trial]]:
    """A new process that recalls `known` and searches on; returns its proposer, and the trials it did not run again."""
    search, kept = proposer(**more), []  # type: ignore[arg-type, var-annotated]
    search.recall(known, kept.append)
    running: list[Proposal] = []
    while len(search.trials) < search.num_trials:
        while len(running) < concurrency and (next_one := search.propose()) is not None:
            assert next_one.number not in search.trials, "it ended before"
            running.append(next_one)
        assert running, "the sweep waits for a trial that nobody runs"
        search.tell(outcome(running.pop(int(random.integers(len(running))))))
    return search, kept


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, LAG), st.integers(1, LAG), st.integers(0, 20))
def test_a_sweep_that_was_killed_ends_as_an_undisturbed_one_and_runs_nothing_twice(seed: int, before: int, after: int, ends: int) -> None:
    whole = until_killed(proposer(), np.random.default_rng(0), 1, 20)
    random = np.random.default_rng(seed)
    known = until_killed(proposer(), random, before, ends)
    search, kept = go_on(known, random, after)
    assert search.trials == whole
    assert {trial.number: trial for trial in kept} == known
    assert search.exhausted and search.propose() is None


@settings(max_examples=6)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 6), min_size=2, max_size=5))
def test_a_sweep_may_be_killed_again_and_again(seed: int, lives: list[int]) -> None:
    random, known = np.random.default_rng(seed), dict[int, Trial]()
    for ends in lives:
        search = proposer()
        search.recall(known, lambda trial: None)
        known = until_killed(search, random, int(random.integers(1, LAG + 1)), len(known) + ends)
    assert go_on(known, random, LAG)[0].trials == until_killed(proposer(), random, 1, 20)


@settings(max_examples=10)
@given(st.sets(st.integers(0, 19)))
def test_trials_without_those_they_hang_on_are_run_again_with_the_same_result(known: set[int]) -> None:
    """Such as a lost line of the file would leave, or a trial whose worker died."""
    whole = until_killed(proposer(), np.random.default_rng(0), 1, 20)
    search, kept = go_on({number: whole[number] for number in known}, np.random.default_rng(1), LAG)
    assert search.trials == whole
    assert {trial.number for trial in kept} <= known


def test_a_trial_that_is_not_what_is_proposed_now_is_run_again() -> None:
    whole = until_killed(proposer(), np.random.default_rng(0), 1, 20)
    foreign = {**whole, 4: dataclasses.replace(whole[4], params={"x": 0.123, "k": 1}, loss=-9.0)}
    search, kept = go_on(foreign, np.random.default_rng(0), 1)
    assert search.trials == whole
    assert 4 not in {trial.number for trial in kept}


def test_the_seed_of_pythons_hashes_changes_nothing() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import numpy as np, test_search as here\n"
        "families = [*here.FAMILIES, here.Family('c', 't.c.C', {}, {name: here.Interval(0.0, 1.0) for name in 'qrstuv'})]\n"
        "print(here.drive(here.proposer(families=families), np.random.default_rng(0), 1))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    told = [
        subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
        for seed in ("1", "2")
    ]
    one, two = (process.communicate(timeout=100)[0] for process in told)
    assert one == two
    assert b"Proposal(number=19" in one


def test_random_search_and_log_targets_repeat_themselves_too() -> None:
    for more in ({"sampler": "random"}, {"log_targets": (False, True)}, {"prune": "none"}):
        runs = [drive(proposer(**more), np.random.default_rng(seed), LAG) for seed in (1, 2)]  # type: ignore[arg-type]
        assert runs[0] == runs[1]
    assert {p.log_target for p in drive(proposer(log_targets=(False, True)), np.random.default_rng(0), 1)} == {False, True}


def test_another_seed_proposes_other_trials() -> None:
    one, other = (drive(proposer(seed=seed), np.random.default_rng(0), 1) for seed in (0, 1))
    assert one != other


def test_a_proposal_waits_for_the_trials_it_hangs_on_and_for_no_other() -> None:
    search = proposer()
    made = [search.propose() for _ in range(LAG)]
    assert None not in made
    assert search.propose() is None, "trial 3 hangs on trial 0"
    search.tell(outcome(made[2]))  # type: ignore[arg-type]
    search.tell(outcome(made[1]))  # type: ignore[arg-type]
    assert search.propose() is None
    search.tell(outcome(made[0]))  # type: ignore[arg-type]
    assert [search.propose() is None for _ in range(4)] == [False, False, False, True], "trials 0 to 2 let 3, 4 and 5 go"


def test_what_newer_trials_gave_is_not_used_yet() -> None:
    """Trial n may know of trials up to n - lag: with other results of the later ones it must be the same."""
    for n in range(LAG, 12):
        made = []
        for luck in (0.0, 100.0):
            search = proposer()
            for number in range(n):
                proposal = search.propose()
                assert proposal is not None
                trial = outcome(proposal)
                if number > n - LAG:
                    trial = dataclasses.replace(trial, status="finished", loss=luck, rungs=dict.fromkeys(RUNGS, luck))
                search.tell(trial)
            made.append(search.propose())
        assert made[0] == made[1], n


def test_the_first_proposals_are_the_families_as_they_come() -> None:
    made = drive(proposer(4, log_targets=(False, True)), np.random.default_rng(0), 1)
    defaults = [("a", {"x": 0.5, "k": 3}), ("b", {"mode": "slow", "rate": 0.1})]
    assert [(p.family, p.params, p.log_target) for p in made] == [(*d, log) for d in defaults for log in (False, True)]


def test_a_default_outside_the_space_is_replaced_and_the_rest_kept() -> None:
    family = Family("a", "t.a.A", {"x": 5.0, "k": 3}, {"x": Interval(0.0, 1.0), "k": Interval(1, 9, step=1)})
    first = proposer(1, [family]).propose()
    assert first is not None
    assert first.params["k"] == 3
    assert 0 <= first.params["x"] <= 1


def test_one_family_needs_no_choice_of_family_and_no_space_needs_no_choice_at_all() -> None:
    assert {p.family for p in drive(proposer(6, FAMILIES[:1]), np.random.default_rng(0), 1)} == {"a"}
    fixed = drive(proposer(3, [Family("c", "t.c.C", {"z": 1})]), np.random.default_rng(0), 1)
    assert [p.params for p in fixed] == [{}] * 3


def test_every_proposal_lies_in_its_space() -> None:
    for proposal in drive(proposer(30), np.random.default_rng(0), 2):
        family = next(f for f in FAMILIES if f.name == proposal.family)
        assert proposal.params.keys() == family.space.keys()
        assert all(family.space[key].holds(value) for key, value in proposal.params.items())


def test_a_rung_is_the_median_of_the_familys_trials_up_to_n_minus_lag() -> None:
    search = proposer()
    done: list[Trial] = []
    judged = 0
    for number in range(20):
        proposal = search.propose()
        assert proposal is not None
        known = [trial for trial in done[: max(0, number - LAG + 1)] if trial.family == proposal.family and trial.rungs]
        wanted = {rung: float(np.median([trial.rungs[rung] for trial in known])) for rung in RUNGS} if len(known) >= MIN_AT_RUNG else {}
        assert proposal.bounds == wanted
        judged += bool(wanted)
        done.append(outcome(proposal))
        search.tell(done[-1])
    assert judged > 5


def test_without_pruning_nothing_is_bounded() -> None:
    assert all(p.bounds == {} for p in drive(proposer(prune="none"), np.random.default_rng(0), 1))


def test_a_sweep_of_failures_still_proposes_every_trial() -> None:
    search = proposer(8, lag=1)
    for number in range(8):
        proposal = search.propose()
        assert proposal is not None
        assert proposal.number == number
        search.tell(dataclasses.replace(outcome(proposal), status="failed", loss=math.inf, rungs={}))
    assert [trial.state.name for trial in search.study.trials[:7]] == ["FAIL"] * 7, "nothing is learned from a failure"


# -- as Ray Tune sees it


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base class alone, so that no test of ours imports Ray."""

    class Searcher:
        FINISHED = "finished"

        def __init__(self, **_: object) -> None: ...

    fake = ModuleType("ray.tune.search")
    fake.Searcher = Searcher  # type: ignore[attr-defined]
    for name in ("ray", "ray.tune"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "ray.tune.search", fake)


def test_tune_gets_as_many_trials_as_asked_for_and_dead_workers_are_failed_trials(tune: None) -> None:
    search = proposer(5)
    seen: list[Trial] = []
    searcher = tune_searcher(
        search, seen.append, lambda proposal, reason: dataclasses.replace(outcome(proposal), status="failed", reason=reason)
    )
    for number in range(5):
        config = searcher.suggest(f"t{number}")
        if number == 2:
            searcher.on_trial_complete(f"t{number}", error=True)
        else:
            searcher.on_trial_complete(f"t{number}", {"trial": outcome(config["proposal"])})
    assert searcher.suggest("t5") == "finished"
    assert [trial.number for trial in seen] == list(range(5))
    assert (seen[2].status, seen[2].reason) == ("failed", "its worker died")
    assert sorted(search.trials) == list(range(5))


def test_tune_is_told_to_come_again_while_a_trial_is_missing(tune: None) -> None:
    search = proposer(5)
    searcher = tune_searcher(search, lambda trial: None, lambda proposal, reason: outcome(proposal))
    configs = [searcher.suggest(f"t{i}") for i in range(LAG)]
    assert searcher.suggest("t3") is None
    searcher.on_trial_complete("t0", {"trial": outcome(configs[0]["proposal"])})
    assert searcher.suggest("t3")["proposal"].number == 3

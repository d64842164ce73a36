"""kill -9 at a moment, of a process of a running command: the driver, a worker or the raylet of its own Ray."""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import dataclass, field

import psutil
from chaos.experiment import (
    LONGEST_S,
    STAGES,
    Command,
    Experiment,
    Truth,
    nobody_left,
    nothing_half_done,
    runs_in_tracking,
    told_to_go_on,
)

from cluster.store import Store

VICTIMS = ("driver", "worker", "raylet")
# In these no worker has anything to do: a person's model is registered, and a page is written.
WITHOUT_WORK = ("register", "report")
REPEATS = 3


@dataclass(frozen=True)
class Moment:
    """`share` of the way through `stage`."""

    victim: str
    stage: str
    share: float

    @classmethod
    def drawn(cls, seed: int, number: int) -> Moment:
        chance = random.Random(f"{seed}:{number}")
        victim = VICTIMS[number % len(VICTIMS)]
        stages = STAGES if victim == "driver" else [stage for stage in STAGES if stage not in WITHOUT_WORK]
        return cls(victim, chance.choice(stages), chance.random())


@dataclass
class Story:
    """What happened in one trial, a line of the table."""

    moment: Moment
    seed: int = 0
    number: int = 0
    killed: str = "nobody: it had ended"
    reached: str = ""
    codes: list[int] = field(default_factory=list)
    seconds: float = 0.0

    HEAD = f"{'seed:no':<8} {'victim':<7} {'at':<14} {'killed':<34} {'stages done':<11} {'exit codes':<12} seconds"

    def line(self) -> str:
        moment = f"{self.moment.stage} {self.moment.share:.0%}"
        codes = " ".join(map(str, self.codes))
        where = f"{self.seed}:{self.number}"
        return f"{where:<8} {self.moment.victim:<7} {moment:<14} {self.killed:<34} {self.reached:<11} {codes:<12} {self.seconds:.0f}"


@dataclass(frozen=True)
class Reference:
    """The undisturbed run: what it made, and how long each stage took from the end of the one before."""

    truth: Truth
    seconds: dict[str, float]


def undisturbed(experiment: Experiment) -> Reference:
    with experiment.store("undisturbed") as store:
        command, ends = _timed(experiment, store)
        run_id = command.answer()["run_id"]
        nobody_left(store, [command])
        nothing_half_done(store)
        told = runs_in_tracking(store)
        assert [each for each, status in told.items() if status == "FINISHED"] == [run_id]
        took = (end - start for start, end in zip([0.0, *ends], ends, strict=False))
        return Reference(Truth.of(store, run_id), dict(zip(STAGES, took, strict=True)))


def _timed(experiment: Experiment, store: Store) -> tuple[Command, list[float]]:
    """A command that ended, and the seconds from its start to the end of each stage."""
    command = experiment.start(store)
    ends: list[float] = []
    while not command.ended and command.seconds < LONGEST_S:
        ends += [command.seconds] * (command.stages() - len(ends))
        command.children()
        time.sleep(0.03)
    command.finish()
    return command, ends + [command.seconds] * (len(STAGES) - len(ends))


def survive(experiment: Experiment, reference: Reference, story: Story) -> None:
    """Run, kill at the story's moment, run again until it ends well, and compare with the undisturbed run."""
    began = time.monotonic()
    with experiment.store(f"trial-{story.number}") as store:
        commands = [experiment.start(store)]
        try:
            must_be_killed = _kill(commands[0], reference, story)
            story.codes.append(commands[0].finish())
            if story.moment.victim == "worker":
                assert story.codes == [0], f"a dead worker ended the run\n{commands[0].said}"
            while story.codes[-1] != 0:
                assert len(story.codes) <= REPEATS, f"it does not end well\n{commands[-1].said}"
                commands.append(experiment.start(store))
                story.codes.append(commands[-1].finish())
            _compare(store, reference, commands, must_be_killed, story)
        finally:
            story.seconds = time.monotonic() - began
            for command in commands:
                command.end()


def _kill(command: Command, reference: Reference, story: Story) -> set[str]:
    """Kill the victim at the moment; returns the runs that MLflow must then call KILLED."""
    moment = story.moment
    while command.stages() < STAGES.index(moment.stage) and not command.ended:
        command.children()
        time.sleep(0.02)
    time.sleep(moment.share * reference.seconds[moment.stage])
    chance = random.Random(f"{story.seed}:{story.number}:victim")
    while not command.ended:
        if found := candidates(command, moment.victim):
            victim = chance.choice(found)
            with contextlib.suppress(psutil.Error):
                story.killed = f"{victim.pid} {_title(victim)}"[:34]
                victim.kill()
                story.reached = f"{command.stages()} of {len(STAGES)}"
                if moment.victim == "driver":
                    command.process.wait()
                    return told_to_go_on(command.store)
                return set()
        time.sleep(0.02)
    return set()


def candidates(command: Command, victim: str) -> list[psutil.Process]:
    """Processes of the command that are such a victim; of workers those that do something, if any does."""
    children = command.children()
    if victim == "driver":
        return [] if command.ended else [command.driver]
    if victim == "raylet":
        return [each for each in children if _title(each) == "raylet"]
    workers = [each for each in children if _title(each).startswith("ray::") and "Agent" not in _title(each)]
    return [each for each in workers if _title(each) != "ray::IDLE"] or workers


def _title(process: psutil.Process) -> str:
    """What a process calls itself: Ray's workers write what they do over their command line."""
    with contextlib.suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            line = process.cmdline()
            return line[0] if line and line[0].startswith("ray::") else process.name()
    return ""


def _compare(store: Store, reference: Reference, commands: list[Command], must_be_killed: set[str], story: Story) -> None:
    run_id = commands[-1].answer()["run_id"]
    nobody_left(store, commands)
    assert Truth.of(store, run_id) == reference.truth
    nothing_half_done(store)
    told = runs_in_tracking(store)
    assert told[run_id] == "FINISHED"
    assert {told[each] for each in must_be_killed} <= {"KILLED"}
    if len(commands) > 1 and (must_be_killed or story.moment.victim == "raylet"):
        assert [each for each, status in told.items() if status == "FINISHED"] == [run_id]

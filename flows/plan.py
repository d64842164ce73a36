"""A run as objects, built and checked before anything starts: a wrong configuration costs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.resources import concurrent_trials, local_cpus
from conf.compose import Composed, build
from conf.errors import UsageError, some
from conf.schema import RunConfig
from flows.gates import Gate
from flows.ingest import Source
from flows.sweep import Searching
from tables import duplicates
from tables.contract import Contract
from tables.duplicates import Once
from tables.privacy.treatment import treated_contract
from tables.rules import check_rule
from tables.sources.files import Files
from tables.splits import Split
from trainers.family import Family, families
from trainers.metrics import check_metric

STAGES = ("ingest", "prepare", "sweep", "evaluate", "register", "deploy", "score", "report")


@dataclass(frozen=True)
class Reuse:
    """Which kept results a run may take: all, none, or those of stages before `start`; `asked` says who asked for that."""

    cache: bool = True
    start: str | None = None
    asked: str = "asked for by --no-cache"

    def allows(self, stage: str) -> bool:
        return self.cache and (self.start is None or STAGES.index(stage) < STAGES.index(self.start))

    @property
    def reason(self) -> str:
        return f"asked for by --from {self.start}" if self.cache else self.asked


def _targets(node: Any) -> Iterator[str]:
    """The classes that a node of the configuration names, at any depth: a source may be made of others."""
    if isinstance(node, Mapping):
        yield from (str(value) for key, value in node.items() if key == "_target_")
    inner = node.values() if isinstance(node, Mapping) else node if isinstance(node, Sequence) and not isinstance(node, str) else ()
    for each in inner:
        yield from _targets(each)


@dataclass(frozen=True)
class Plan:
    """Everything a run needs, as objects; nothing was started to make it. `until` is the last stage to run."""

    composed: Composed[RunConfig]
    contract: Contract
    source: Source
    split: Split
    families: list[Family]
    gates: dict[str, Gate]
    until: str
    reuse: Reuse = Reuse()

    def code_of(self, stage: str) -> list[str]:
        """The modules and classes that a stage's result follows from."""
        config = self.config
        trainers = [family.target for family in self.families]
        named = {
            "ingest": sorted(set(_targets(self.composed.plain["dataset"]["source"]))),
            "prepare": [config.dataset.split["_target_"]],
            "sweep": trainers,
            "evaluate": [*trainers, *(node["_target_"] for node in config.gates.values())],
            "score": trainers,
        }
        return [f"flows.{stage}", *named.get(stage, [])]

    @property
    def deploys(self) -> bool:
        """Whether the run releases a candidate that passes its gates."""
        config = self.config
        return config.deploy == "auto" and config.policy.release == "when_gates_pass" and self.reaches("deploy")

    def reaches(self, stage: str) -> bool:
        return STAGES.index(self.until) >= STAGES.index(stage)

    @property
    def config(self) -> RunConfig:
        return self.composed.config

    def family(self, name: str) -> Family:
        return next(family for family in self.families if family.name == name)

    @property
    def reading(self) -> dict[str, Any]:
        """How the source reads text files; empty where it reads none."""
        return self.source.reading if isinstance(self.source, Files) else {}

    @property
    def onces(self) -> tuple[Once, ...]:
        """By what rows are told to be the same: the duplicates that the dataset removes, and what the contract promises to be unique."""
        return duplicates.asked(self.contract, self.config.dataset.duplicates)

    @property
    def slices(self) -> list[str]:
        return self.config.dataset.slices

    @property
    def later_by(self) -> str | None:
        return self.config.score.by

    @property
    def judged_columns(self) -> list[str]:
        """Columns that quality is reported by."""
        return [*self.slices, *([self.later_by] if self.later_by else [])]

    @property
    def scored_columns(self) -> list[str]:
        """Columns that scores keep beside the prediction: those asked for, the one they are judged by, and the label."""
        return [*dict.fromkeys([*self.config.score.keep, *([self.later_by] if self.later_by else []), self.contract.label])]

    def searching(self) -> Searching:
        """What the sweep needs, with as many trials at once as the connected Ray has room for."""
        import ray

        config = self.config
        concurrency = concurrent_trials(_asked(self.families), ray.cluster_resources(), config.sweep.max_concurrent, config.sweep.lag)
        return Searching(self.families, config.sweep, config.search, concurrency, config.seed)


def plan(composed: Composed[RunConfig], until: str = "report", reuse: Reuse = Reuse()) -> Plan:
    """Build every object the configuration names, for a run up to the stage `until`. Raises UsageError for whatever is wrong."""
    config = composed.config
    for option, stage in (("--until", until), ("--from", reuse.start)):
        if stage is not None and stage not in STAGES:
            raise UsageError(f"{option} names no stage", value=stage, allowed=", ".join(STAGES))
    if reuse.start is not None and STAGES.index(reuse.start) > STAGES.index(until):
        raise UsageError("--from comes after --until", value=f"--from {reuse.start} --until {until}", allowed=" -> ".join(STAGES))
    if config.cluster.kind == "existing" and config.deploy == "auto":
        raise UsageError(
            "an endpoint is deployed on this store's own platform only", value="deploy=auto", allowed="deploy=none", next="add deploy=none"
        )
    contract = Contract.load(composed.file("contract", config.dataset.contract))
    duplicates.asked(contract, config.dataset.duplicates)
    treated = treated_contract(contract)  # what everything after ingest is asked of
    split = build(config.dataset.split, config.plugins, "dataset.split")
    split.check(treated)
    for name in (*config.dataset.slices, *config.score.keep, *([config.score.by] if config.score.by else [])):
        if name not in treated.columns:
            raise UsageError("a column of slices or score is not in the contract, or dropped", value=name, allowed=some(treated.columns))
    if config.sweep.metric is not None:
        check_metric(config.sweep.metric, contract.task)
    if config.score.where is not None:
        check_rule(config.score.where, treated.schema())
    typed = [key.removeprefix("trainer.") for key in composed.typed if key.startswith("trainer.")]
    found = families(config.trainer, config.search.space, typed, tuple(config.plugins))
    if config.cluster.kind == "local":
        concurrent_trials(_asked(found), {"CPU": config.cluster.cpus or local_cpus()}, None, config.sweep.lag)
    return Plan(
        composed,
        contract,
        build(config.dataset.source, config.plugins, "dataset.source"),
        split,
        found,
        {name: build(node, config.plugins, f"gates.{name}") for name, node in sorted(config.gates.items())},
        until,
        reuse,
    )


def _asked(found: list[Family]) -> dict[str, dict[str, float]]:
    return {family.name: {"CPU": family.resources.cpu, "GPU": family.resources.gpu} for family in found}

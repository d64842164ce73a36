"""A trainer as one search may use it: its class, its fixed parameters, its search space, and what each of its workers asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from conf.errors import UsageError, suggest
from conf.targets import resolve
from trainers.protocol import Trainer
from trainers.space import Choice, Domain, Interval, parse


@dataclass(frozen=True)
class Resources:
    """What one worker asks Ray for."""

    cpu: float = 1
    gpu: float = 0

    def __post_init__(self) -> None:
        for name, value in (("cpu", self.cpu), ("gpu", self.gpu)):
            if not isinstance(value, int | float) or value < 0:
                raise UsageError(f"trainer.resources.{name} is out of range", value=value, allowed="0 or more")

    @property
    def threads(self) -> int:
        return max(1, int(self.cpu))

    @property
    def device(self) -> str:
        return "cuda" if self.gpu else "cpu"


@dataclass(frozen=True)
class Family:
    """`params` are the values of every parameter; `space` the domains of those that are searched."""

    name: str
    target: str
    params: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Domain] = field(default_factory=dict)
    resources: Resources = Resources()
    plugins: tuple[str, ...] = ()

    def trainer(self) -> Trainer:
        return resolve(self.target, self.plugins)()  # type: ignore[no-any-return]

    def build_params(self, chosen: Mapping[str, Any]) -> Any:
        """The family's typed parameters with `chosen` values; a wrong value raises UsageError."""
        kind = resolve(self.target, self.plugins).Params
        given = {**self.params, **chosen}
        for each in dataclasses.fields(kind):
            if not _fits(given.get(each.name, each.default), each.default):
                raise UsageError(
                    f"{self.name} parameter {each.name} has another type",
                    value=given[each.name],
                    allowed=_WORDS[type(each.default)],
                    next=f"set trainer.{each.name}=...",
                )
        return kind(**given)


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of the kind of its default: a whole number may stand for a number, but true is neither."""
    if type(default) not in _WORDS:
        return True
    return type(value) is type(default) or (type(default) is float and type(value) is int)


def families(node: Mapping[str, Any], space: Mapping[str, str], typed: Collection[str] = (), plugins: tuple[str, ...] = ()) -> list[Family]:
    """The families that a `trainer` config names: one, or several by name.

    `space` holds domains given as overrides, `typed` the parameters that a person gave a value (`max_depth`, or `xgboost.max_depth`
    with several families): those are not searched.
    """
    single = "_target_" in node
    nodes = {str(node["_target_"]).split(".")[-2]: node} if single else {name: each for name, each in node.items() if name != "resources"}
    shared = {} if single else {kind: amount for kind, amount in (node.get("resources") or {}).items() if amount is not None}
    found = []
    # By name: in which order a configuration names things is no part of what it says, and a record does not keep it.
    for name, each in sorted(nodes.items()):
        if not isinstance(each, Mapping) or "_target_" not in each:
            raise UsageError("trainer has an entry that is no trainer", value=name, allowed="entries with a _target_")
        prefix = "" if single else f"{name}."
        own = {key.removeprefix(prefix): text for key, text in space.items() if key.startswith(prefix)}
        fixed = {key.removeprefix(prefix) for key in typed if key.startswith(prefix)}
        found.append(_family(name, {**each, "resources": {**(each.get("resources") or {}), **shared}}, own, fixed, plugins))
    unused = [key for key in space if not single and key.split(".")[0] not in nodes]
    if unused:
        raise UsageError(f"there is no such trainer{suggest(unused[0].split('.')[0], nodes)}", value=unused[0], allowed=", ".join(nodes))
    return found


def _family(name: str, node: Mapping[str, Any], overrides: Mapping[str, str], fixed: set[str], plugins: tuple[str, ...]) -> Family:
    params = {str(key): value for key, value in node.items() if key not in ("_target_", "resources", "space")}
    kind = resolve(str(node["_target_"]), plugins)
    known = [f.name for f in dataclasses.fields(kind.Params)]
    texts = {**{str(key): str(text) for key, text in (node.get("space") or {}).items()}, **overrides}
    for key in (*params, *texts):
        if key not in known:
            raise UsageError(f"trainer {name} has no parameter{suggest(key, known)}", value=key, allowed=", ".join(known))
    default = {f.name: f.default for f in dataclasses.fields(kind.Params)}
    searched = sorted(key for key in texts if key in overrides or key not in fixed)
    space = {key: _whole(parse(f"{name}.{key}", texts[key]), default[key]) for key in searched}
    asked = node.get("resources") or {}
    if unknown := [key for key in asked if key not in ("cpu", "gpu")]:
        raise UsageError(
            f"trainer.resources has no {unknown[0]}{suggest(unknown[0], ('cpu', 'gpu'))}", value=unknown[0], allowed="cpu, gpu"
        )
    family = Family(name, str(node["_target_"]), params, space, Resources(**asked), plugins)
    family.build_params({})
    for key, domain in space.items():
        for value in domain.values if isinstance(domain, Choice) else (domain.low, domain.high):
            family.build_params({key: value})
    return family


def _whole(domain: Domain, default: Any) -> Domain:
    """Numbers to try for a parameter that counts something are whole ones."""
    if isinstance(domain, Interval) and type(default) is int and domain.low == domain.low // 1 and domain.high == domain.high // 1:
        return Interval(int(domain.low), int(domain.high), domain.log, domain.step or 1)
    return domain

"""Search spaces in Hydra's sweep grammar: `choice(...)`, `range(...)`, `interval(...)`, `tag(log, interval(...))`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from conf.errors import UsageError


class Suggests(Protocol):
    """The part of an Optuna trial that a domain needs."""

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...


@dataclass(frozen=True)
class Choice:
    values: tuple[Any, ...]

    def suggest(self, trial: Suggests, name: str) -> Any:
        return trial.suggest_categorical(name, list(self.values))

    def holds(self, value: Any) -> bool:
        return value in self.values


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included; whole ones in steps when `step` is set."""

    low: float
    high: float
    log: bool = False
    step: int | None = None

    def suggest(self, trial: Suggests, name: str) -> Any:
        if self.step is None:
            return trial.suggest_float(name, self.low, self.high, log=self.log)
        return trial.suggest_int(name, int(self.low), int(self.high), step=self.step, log=self.log)

    def holds(self, value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool) or not self.low <= value <= self.high:
            return False
        return self.step is None or (value - self.low) % self.step == 0


Domain = Choice | Interval


def parse(name: str, text: str) -> Domain:
    """The domain that `text` describes; `name` is only for messages."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, QuotedString, RangeSweep
    from hydra.errors import HydraException

    def refuse(why: str) -> UsageError:
        return UsageError(
            f"search space of {name}: {why}", value=text, allowed="choice(a,b), range(a,b), interval(a,b), tag(log,interval(a,b))"
        )

    try:
        value = OverridesParser.create().parse_override(f"x={text}").value()
    except HydraException as error:
        raise refuse(str(error).splitlines()[0]) from None
    if isinstance(value, ChoiceSweep):
        values = tuple(v.text if isinstance(v, QuotedString) else v for v in value.list)
        if not values:
            raise refuse("no choices")
        if len({"number" if type(v) in (int, float) else type(v) for v in values if v is not None}) > 1:
            raise refuse("choices of mixed types")
        return Choice(values)
    if isinstance(value, RangeSweep):
        if value.start is None or value.stop is None or value.step <= 0 or not _whole(value.start, value.stop, value.step):
            raise refuse("only whole numbers and steps above 0")
        start, stop, step = int(value.start), int(value.stop), int(value.step)
        last = start + (stop - 1 - start) // step * step
        return _interval(start, last, "log" in value.tags, step, refuse)
    if isinstance(value, IntervalSweep):
        whole = "int" in value.tags
        if whole and not _whole(value.start, value.end):
            raise refuse("an int interval has whole bounds")
        return _interval(value.start, value.end, "log" in value.tags, 1 if whole else None, refuse)
    raise refuse("not a search space")


def _whole(*bounds: float | None) -> bool:
    return all(bound is not None and bound == bound // 1 for bound in bounds)


def _interval(low: float | None, high: float | None, log: bool, step: int | None, refuse: Any) -> Interval:
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise refuse("bounds must be finite")
    if low > high:
        raise refuse("bounds are reversed or empty")
    if log and low <= 0:
        raise refuse("a log scale starts above 0")
    if log and step not in (None, 1):
        raise refuse("a log scale has no steps")
    return Interval(low, high, log, step)

"""What changed between two contracts, and whom it breaks: those who read the rows, those who bring them, both or nobody.

A promise that got weaker breaks readers: they may now meet what they were told never to meet. One that got stronger breaks writers: rows
that were good are refused now. Readers are training, queries and reports over the snapshots; writers are sources and requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from tables.contract import Column, Contract
from tables.promises import seconds_of

Side = Literal["readers", "writers"]
Effect = Literal["weaker", "stronger", "unlike", "other", "free"]
_BREAKS: dict[Effect, tuple[Side, ...]] = {
    "weaker": ("readers",),
    "stronger": ("writers",),
    "unlike": ("readers",),
    "other": ("readers", "writers"),
    "free": (),
}
_BECAUSE: dict[Effect, str] = {
    "weaker": "readers may meet what was promised never to come",
    "stronger": "rows that were good may be refused now",
    "unlike": "the same row reads otherwise",
    "other": "neither what is read nor what is brought is the same",
    "free": "what was right under the old contract stays right",
}
_GONE = "who asks for it finds nothing, and who sends it is refused"
# From the one that lets most through to the one that lets least.
_SEVERITIES = ("warn", "quarantine", "stop")


class Change(NamedTuple):
    """`where` is the field of the contract; `old` and `new` are its values as in the YAML, None where there is none."""

    where: str
    what: str
    old: Any
    new: Any
    effect: Effect
    because: str

    @property
    def breaks(self) -> tuple[Side, ...]:
        return _BREAKS[self.effect]

    def as_json(self) -> dict[str, Any]:
        return {**self._asdict(), "breaks": list(self.breaks)}


def changes(old: Contract, new: Contract) -> list[Change]:
    """Every difference, columns first, in the order of the contracts."""
    return [*_columns(old.columns, new.columns), *_table(old, new), *_named(old, new)]


def _changed(where: str, what: str, old: Any, new: Any, effect: Effect, because: str = "") -> Change:
    return Change(where, what, old, new, effect, because or _BECAUSE[effect])


def _columns(old: Mapping[str, Column], new: Mapping[str, Column]) -> Iterator[Change]:
    gone, come = [name for name in old if name not in new], [name for name in new if name not in old]
    for name in gone:
        # A column that left while one of the very same promise came is the same under another name, if there is no second such pair.
        twins = [each for each in come if new[each] == old[name]]
        if len(twins) == 1 and [each for each in gone if old[each] == old[name]] == [name]:
            come.remove(twins[0])
            yield _changed(
                f"columns.{name}", "renamed", name, twins[0], "other", "who asks for the old name finds nothing, who sends it is refused"
            )
        else:
            yield _changed(
                f"columns.{name}", "removed", _plain(old[name]), None, "other", "who asks for it finds nothing, who sends it is refused"
            )
    for name in come:
        if new[name].nullable:
            yield _changed(f"columns.{name}", "added", None, _plain(new[name]), "free", "rows without it hold a null")
        else:
            yield _changed(f"columns.{name}", "added", None, _plain(new[name]), "stronger", "rows without it are refused")
    for name in old:
        if name in new:
            yield from _column(f"columns.{name}", old[name], new[name])


def _column(where: str, old: Column, new: Column) -> Iterator[Change]:
    bounds = any(getattr(each, field) is not None for each in (old, new) for field in ("min", "max", "allowed", "pattern"))
    for field, judge in _COLUMN.items():
        before, after = getattr(old, field), getattr(new, field)
        if before != after and (field != "severity" or bounds):
            yield _judged(f"{where}.{'class' if field == 'privacy_class' else field}", before, after, judge)


Judge = Callable[[Any, Any], Effect]


def _judged(where: str, before: Any, after: Any, judge: Judge) -> Change:
    effect = judge(before, after)
    what = {"weaker": "loosened", "stronger": "tightened"}.get(effect, "changed")
    return _changed(where, what, _plain(before), _plain(after), effect)


def _upper(before: float | None, after: float | None) -> Effect:
    """Of an upper bound: none is the loosest."""
    if before is None or after is None:
        return "weaker" if after is None else "stronger"
    return "weaker" if after > before else "stronger"


def _lower(before: float | None, after: float | None) -> Effect:
    return _upper(None if before is None else -before, None if after is None else -after)


def _set(before: list[str] | None, after: list[str] | None) -> Effect:
    """Of a set of allowed values: none allows all."""
    if before is None or after is None:
        return "weaker" if after is None else "stronger"
    if set(before) == set(after):
        return "free"
    return "weaker" if set(before) < set(after) else "stronger" if set(after) < set(before) else "other"


def _pattern(before: str | None, after: str | None) -> Effect:
    """Which of two patterns matches more cannot be told."""
    return "weaker" if after is None else "stronger" if before is None else "other"


def _formats(before: list[str] | None, after: list[str] | None) -> Effect:
    """A format behind the others reads what none read; another order reads the same text as another day."""
    one, other = before or [], after or []
    if one and other[: len(one)] == one:
        return "free"
    return "stronger" if other and one[: len(other)] == other else "other"


def _severity(before: str, after: str) -> Effect:
    """Only what warns lets a bad row through."""
    if after == "warn":
        return "weaker"
    return "stronger" if _SEVERITIES.index(after) > _SEVERITIES.index(before) else "free"


def _age(before: str, after: str) -> Effect:
    return "free" if seconds_of(before) == seconds_of(after) else _upper(seconds_of(before), seconds_of(after))


def _nullable(before: bool, after: bool) -> Effect:
    return "weaker" if after else "stronger"


def _other(before: Any, after: Any) -> Effect:
    return "other"


def _read(before: Any, after: Any) -> Effect:
    return "unlike"


def _free(before: Any, after: Any) -> Effect:
    return "free"


_COLUMN: dict[str, Judge] = {
    "type": _other,
    "role": _other,
    "nullable": _nullable,
    "min": _lower,
    "max": _upper,
    "allowed": _set,
    "pattern": _pattern,
    "severity": _severity,
    "formats": _formats,
    "privacy_class": _free,
    "treatment": _read,
    "note": _free,
}
_TABLE: dict[str, Judge] = {
    "name": _other,
    "task": _other,
    "label": _other,
    "positive": _other,
    "key": _other,
    "time": _other,
    "max_bad_fraction": _upper,
}
_OF_RULES: dict[str, Judge] = {"check": _other, "severity": _severity}
_OF_REFERENCES: dict[str, Judge] = {"to": _other, "severity": _severity}
_OF_ROWS: dict[str, Judge] = {"min": _lower, "max": _upper, "change": _upper, "severity": _severity}
_OF_FRESHNESS: dict[str, Judge] = {"column": _other, "max_age": _age, "severity": _severity}
_OF_DISTRIBUTIONS: dict[str, Judge] = {"psi": _upper, "ks": _upper, "severity": _severity}


def _table(old: Contract, new: Contract) -> Iterator[Change]:
    for field, judge in _TABLE.items():
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            yield _judged(field, before, after, judge)


def _named(old: Contract, new: Contract) -> Iterator[Change]:
    """Promises that have names, or are one: each by itself."""
    one, other = _by_name(old), _by_name(new)
    for where in dict.fromkeys([*one, *other]):
        (before, judges), (after, _) = one.get(where, (None, {})), other.get(where, (None, {}))
        if before is None:
            yield _changed(where, "added", None, _plain(after), "stronger")
        elif after is None:
            yield _changed(where, "removed", _plain(before), None, "weaker")
        else:
            for field, judge in judges.items():
                if getattr(before, field) != getattr(after, field):
                    yield _judged(f"{where}.{field}", getattr(before, field), getattr(after, field), judge)


def _by_name(contract: Contract) -> dict[str, tuple[Any, dict[str, Judge]]]:
    found: dict[str, tuple[Any, dict[str, Judge]]] = {f"rules.{rule.name}": (rule, _OF_RULES) for rule in contract.rules}
    found |= {f"unique.{'+'.join(sorted(names))}": (names, {}) for names in contract.unique}
    found |= {f"references.{each.name}": (each, _OF_REFERENCES) for each in contract.references}
    found |= {"rows": (contract.rows, _OF_ROWS)} if contract.rows else {}
    found |= {"freshness": (contract.freshness, _OF_FRESHNESS)} if contract.freshness else {}
    return found | {f"distributions.{name}": (each, _OF_DISTRIBUTIONS) for name, each in contract.distributions.items()}


def _plain(value: Any) -> Any:
    """As the YAML has it, without what is not set."""
    plain = msgspec.to_builtins(value)
    return {key: each for key, each in plain.items() if each not in (None, "")} if isinstance(value, msgspec.Struct) else plain

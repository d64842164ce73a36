"""Refuse a parameter that lies outside its range, before anything is trained."""

from __future__ import annotations

from typing import Any

from conf.errors import UsageError


def check(
    params: Any,
    name: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Raise UsageError unless `params.name` keeps every bound given; a NaN keeps none."""
    value = getattr(params, name)
    bounds = [
        (at_least, f">= {at_least}", at_least is not None and value >= at_least),
        (above, f"> {above}", above is not None and value > above),
        (at_most, f"<= {at_most}", at_most is not None and value <= at_most),
        (below, f"< {below}", below is not None and value < below),
    ]
    wanted = [(text, kept) for bound, text, kept in bounds if bound is not None]
    if not all(kept for _, kept in wanted):
        family = type(params).__module__.rpartition(".")[2]
        raise UsageError(
            f"{family} parameter {name} is out of range",
            value=value,
            allowed=" and ".join(text for text, _ in wanted),
            next=f"set trainer.{name}=... (conf/trainer/{family}.yaml holds the default)",
        )

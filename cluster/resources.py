"""How many trials run at once on the CPUs and GPUs there are; refused where a trial could wait for ever."""

from __future__ import annotations

import os
from collections.abc import Mapping

from conf.errors import UsageError


def local_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def concurrent_trials(asked: Mapping[str, Mapping[str, float]], have: Mapping[str, float], wanted: int | None, lag: int) -> int:
    """`asked`: per trainer, what one trial asks (`CPU`, `GPU`); `have`: what the cluster has in all.

    Raises UsageError when a trial can never start. At most `lag` trials run at once, so that the order of proposals is fixed.
    """
    fits = lag
    for name, resources in asked.items():
        for kind, amount in resources.items():
            if amount > have.get(kind, 0):
                raise UsageError(
                    f"a trial of {name} asks for more {kind} than there is",
                    value=amount,
                    allowed=f"at most {have.get(kind, 0):g} {kind} (this {'machine' if kind == 'CPU' else 'cluster'})",
                    next=f"trainer.resources.{kind.lower()}={int(have.get(kind, 0))}",
                )
            if amount:
                fits = min(fits, int(have[kind] / amount))
    return max(1, min(fits, wanted or fits))

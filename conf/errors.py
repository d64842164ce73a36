"""The errors a person can cause. Each says what was wrong, the value, what is allowed, and the next command to type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class RaycycleError(Exception):
    """A failure with a message for a person; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, value: object = None, allowed: str = "", next: str = "") -> None:
        self.what, self.value, self.allowed, self.next = what, value, allowed, next
        super().__init__(self.message)

    @property
    def message(self) -> str:
        lines = [self.what if self.value is None else f"{self.what}: {self.value!r}"]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.next:
            lines.append(f"  next:    {self.next}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        value = self.value if self.value is None or isinstance(self.value, str | int | float | bool) else str(self.value)
        return {"what": self.what, "value": value, "allowed": self.allowed, "next": self.next}

    def __reduce__(self) -> tuple[object, ...]:
        # The error crosses from Ray workers to the driver, and keyword-only arguments do not survive the default.
        return _rebuild, (type(self), self.what, self.value, self.allowed, self.next)


def _rebuild(kind: type[RaycycleError], what: str, value: object, allowed: str, next: str) -> RaycycleError:
    return kind(what, value=value, allowed=allowed, next=next)


class UsageError(RaycycleError):
    """Wrong usage, configuration or input: nothing was started."""

    exit_code = 2


class RefusedError(RaycycleError):
    """A gate, a policy or a judge said no."""

    exit_code = 3


def suggest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'xgboost'?)"` when a known name is close to what was typed, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def some(names: Iterable[str], count: int = 12) -> str:
    """The first `count` names in one line, and how many more there are."""
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def root_cause(error: BaseException) -> BaseException:
    """The error meant for a person inside one that came back from a Ray worker; the error itself where there is none."""
    seen: BaseException | None = error
    while seen is not None:
        inner = getattr(seen, "cause", None)
        if isinstance(seen, RaycycleError) and not isinstance(inner, BaseException):
            return seen
        seen = inner if isinstance(inner, BaseException) else seen.__cause__
    return error

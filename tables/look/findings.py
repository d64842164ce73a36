"""What was noticed about a table: what, why it matters, and what was decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`warning` findings deserve a person's look before the model is trusted."""

    kind: str
    what: str
    decision: str
    why: str = ""
    columns: tuple[str, ...] = ()
    warning: bool = False

    def line(self) -> str:
        return f"{self.what}{f' ({self.why})' if self.why else ''}: {self.decision}"

    def as_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def shown(names: list[str] | tuple[str, ...], count: int = 6) -> str:
    """Column names for a sentence, on one line whatever they contain."""
    text = ", ".join(name if name.isprintable() else repr(name) for name in names[:count])
    return text + (f" and {len(names) - count:,} more" if len(names) > count else "")

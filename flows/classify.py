"""A person's word on which columns are personal and what is done to them, written into the contract's file.

$ raycycle data classify customers email=personal:drop age=personal:generalise,band=10 shop=internal
"""

from __future__ import annotations

import io
import tempfile
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.store import write_atomic
from conf.compose import compose
from conf.errors import UsageError, some, suggest
from tables.contract import Contract, PrivacyClass
from tables.privacy.treatment import default_treatment, from_words, treatments

CLASSES = typing.get_args(PrivacyClass)


@dataclass(frozen=True)
class Classified:
    """The contract's file, and each column's class and treatment as it is there now."""

    file: Path
    columns: dict[str, tuple[str, Any]]

    def lines(self) -> list[str]:
        said = [f"{name:<20} {kind:<10} {treatment or 'kept as it is'}" for name, (kind, treatment) in self.columns.items()]
        return [*said, f"wrote {self.file}"]


def classify(dataset: str, answers: Sequence[str], config_dir: Path | None = None) -> Classified:
    """Write the `answers`, each `COLUMN=CLASS[:TREATMENT]`, into the contract of `dataset`; its comments and its order stay.

    A personal or secret column for which no treatment is given gets the usual one. Raises UsageError, and writes nothing, when an
    answer does not fit.
    """
    composed = compose([f"dataset={dataset}"], config_dir)
    file = composed.file("contract", composed.config.dataset.contract)
    contract = Contract.load(file)
    columns = dict(_answer(contract, each) for each in answers)
    text = _edited(file.read_text(encoding="utf-8"), columns)
    _check(file, text)
    write_atomic(file, text)
    return Classified(file, columns)


def _answer(contract: Contract, answer: str) -> tuple[str, tuple[str, Any]]:
    name, _, said = answer.rpartition("=") if ":" not in answer else _parted(answer)
    kind, _, treatment = said.partition(":")
    if name not in contract.columns:
        raise UsageError(f"there is no such column{suggest(name, contract.columns)}", value=name, allowed=some(contract.columns))
    if kind not in CLASSES:
        raise UsageError(f"{name}: there is no such class{suggest(kind, CLASSES)}", value=kind, allowed=", ".join(CLASSES))
    if not treatment and kind in ("personal", "secret"):
        treatment = default_treatment(contract.columns[name])
    return name, (kind, from_words(treatment))


def _parted(answer: str) -> tuple[str, str, str]:
    """Column and class with its treatment, whose parameters have equals signs too."""
    before, _, treatment = answer.rpartition(":")
    name, equals, kind = before.rpartition("=")
    return name, equals, f"{kind}:{treatment}"


def _edited(text: str, columns: dict[str, tuple[str, Any]]) -> str:
    """The contract's text with the classes and treatments put in, all else as it stood."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    editor = YAML()
    editor.preserve_quotes, editor.width = True, 10_000
    document = editor.load(text)
    for name, (kind, treatment) in columns.items():
        column = document["columns"][name]
        given = {"class": kind, "treatment": treatment}
        for field, value in given.items():
            if value is None:
                column.pop(field, None)
            elif field in column:
                column[field] = value
            else:
                column.insert(_before_note(column), field, value)
        if isinstance(treatment, dict):
            inner = CommentedMap({each: CommentedMap(params) for each, params in treatment.items()})
            inner.fa.set_flow_style()
            column["treatment"] = inner
    out = io.StringIO()
    editor.dump(document, out)
    return out.getvalue()


def _before_note(column: Any) -> int:
    """A place before the note: what follows the last field, a comment or an empty line, belongs behind it."""
    names = list(column)
    return names.index("note") if "note" in names else max(len(names) - 1, 1)


def _check(file: Path, text: str) -> None:
    """Raise UsageError, naming the contract's own file, when the edited text is no contract."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / file.name
        draft.write_text(text, encoding="utf-8")
        try:
            contract = Contract.load(draft)
        except UsageError as error:
            raise UsageError(error.what.replace(str(draft), str(file)), value=error.value, allowed=error.allowed, next=error.next) from None
    treatments(contract)

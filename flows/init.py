"""Look at a table once, and write the dataset and the contract that `raycycle run` needs.

$ raycycle init FILE_OR_FOLDER --label COL
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.progress import Progress
from cluster.store import safe_name, write_atomic
from conf.errors import UsageError
from flows.look import Sample, find_source, look_at
from tables.contract import RESERVED, as_yaml
from tables.look.findings import Finding, counted, shown
from tables.look.labels import find_label
from tables.look.profile import Profile
from tables.look.survey import profile
from tables.sources.files import Files
from tables.sources.formats import SUFFIXES, UNREADABLE
from tables.sources.packed import PACKED

MAX_UNREADABLE = 0.05
# Words that Hydra's grammar reads as something other than a name.
_RESERVED = ("null", "true", "false", "nan", "inf", "none")


@dataclass(frozen=True, kw_only=True)
class NewDataset:
    """The two files written, and what was decided about the table; `next` is the command to type now."""

    name: str
    dataset: Path
    contract: Path
    profile: Profile
    source: Files
    next: str

    def as_json(self) -> dict[str, Any]:
        seen = self.profile
        return {
            "dataset": str(self.dataset),
            "contract": str(self.contract),
            "name": self.name,
            "task": seen.task,
            "label": seen.label,
            "positive": seen.positive,
            "metric": seen.metric,
            "rows": seen.rows,
            "looked_at": seen.looked_at,
            "columns": {name: {"type": c.type, "role": c.role, "nulls": c.nulls} for name, c in seen.columns.items()},
            "findings": [finding.as_json() for finding in seen.findings],
            "next": self.next,
        }

    def lines(self) -> list[str]:
        """What a person reads: the decisions first, warnings marked, the next command last."""
        seen = self.profile
        used = [name for name, column in seen.columns.items() if column.role == "feature"]
        looked = "" if seen.looked_at == seen.rows else f" (looked at {seen.looked_at:,} rows from all over)"
        about = f"{counted(len(seen.columns), 'column')}, {counted(len(used), 'feature')}: {shown(used)}"
        said = [f"{self.name}: {counted(seen.rows, 'row')}{looked}, {about}", ""]
        said += [f"{'! ' if finding.warning else '  '}{finding.kind:<9} {finding.line()}" for finding in seen.findings]
        return [
            *said,
            "",
            f"wrote {self.dataset}",
            f"wrote {self.contract}  (read it: what it says is what will be checked)",
            f"next: {self.next}",
        ]


def init(
    path: str, label: str, name: str | None = None, into: Path | None = None, *, force: bool = False, progress: Progress | None = None
) -> NewDataset:
    """Raises UsageError when the table cannot be read or learned from, or when files of that name are there already."""
    into = into or Path("raycycle-conf")
    named = [] if name else _named(path)
    name = _checked_name(name) if name else name_from(path)
    targets = into / "dataset" / f"{name}.yaml", into / "contract" / f"{name}.yaml"
    _check_writable(into)
    source, findings = find_source(path)
    sample = look_at(source, progress or Progress(quiet=True))
    if "???" in sample.table.column_names:
        raise UsageError("a column name cannot be used: it means a missing value in YAML", value="???", next="rename the column")
    if taken := sorted(set(sample.table.column_names) & set(RESERVED) - {UNREADABLE}):
        raise UsageError("a column name cannot be used: raycycle adds a column of this name", value=taken[0], next="rename the column")
    find_label(label, [column for column in sample.table.column_names if column != UNREADABLE])
    source, unreadable = _unreadable_rows(source, sample)
    seen = profile(sample.table, label, rows=sample.rows, decimal_comma=source.delimiter == ";", unreadable=len(sample.unreadable))
    source = _as_profiled(source, seen)
    seen = replace(seen, findings=[*named, *findings, *unreadable, *seen.findings, *_usual_nulls(sample)])
    return _write(name, targets, source, seen, into, force)


def name_from(path: str) -> str:
    """A name for the dataset from that of its file or folder: a word that can be typed on the command line as it is."""
    word = re.sub(r"[^A-Za-z0-9]+", "_", _stem(path)).strip("_").lower()[:60] or "table"
    return f"table_{word}" if word[0].isdigit() or word in _RESERVED else word


def _stem(path: str) -> str:
    stem = Path(path.rstrip("/*?[]")).name
    while Path(stem).suffix.lower() in (*PACKED, *SUFFIXES):
        stem = Path(stem).stem
    return stem


def _named(path: str) -> list[Finding]:
    """Why the dataset is not called as its file is, if it is not."""
    name, stem = name_from(path), _stem(path)
    if name == stem:
        return []
    if name.removeprefix("table_") in _RESERVED:
        why = f"{stem} is a word of Hydra"
    else:
        why = "a name begins with a letter" if stem[:1].isdigit() else "a name is small letters, digits and _"
    return [Finding(kind="name", what=f"named {name}", decision=f"{why}; --name gives another")]


def _checked_name(name: str) -> str:
    safe_name("dataset", name)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name) or name.lower() in _RESERVED:
        raise UsageError("dataset name is not usable", value=name, allowed="letters, digits, '_' and '-', a letter first")
    return name


def _check_writable(into: Path) -> None:
    """Before the long look: a folder that cannot be written is no news for the end. Nothing is created yet."""
    for folder in (into / "dataset", into / "contract"):
        there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise _unwritable(into, "no right to write" if there.is_dir() else f"{there} is a file")


def _unwritable(into: Path, why: str) -> UsageError:
    return UsageError(
        f"the folder cannot be written ({why})",
        value=str(into.absolute()),
        allowed="a folder that this user may create and write",
        next="run it in another folder, or give --into FOLDER",
    )


def _usual_nulls(sample: Sample) -> list[Finding]:
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, words in sample.nulls.items():
        if words:
            alike[tuple(sorted(words))].append(name)
    decision = "read as null; leave it out of source.null_values if it is a value"
    return [
        Finding(
            kind="null",
            what=f"{shown(names)} write{'s' * (len(names) == 1)} null as {', '.join(map(repr, words))}",
            decision=decision,
            columns=tuple(names),
        )
        for words, names in alike.items()
    ]


def _unreadable_rows(source: Files, sample: Sample) -> tuple[Files, list[Finding]]:
    said = sample.unreadable
    if not said:
        return source, []
    if len(said) > MAX_UNREADABLE * (sample.rows + len(said)):
        raise UsageError(
            f"{len(said):,} of {sample.rows + len(said):,} rows cannot be read: {'; '.join(said[:3])}",
            value=source.path,
            allowed="rows with as many fields as the header",
            next=f"check the delimiter (found {source.delimiter!r}) and the quotes",
        )
    what = f"{counted(len(said), 'row')} cannot be read: {'; '.join(said[:5])}{' ...' if len(said) > 5 else ''}"
    finding = Finding(kind="source", what=what, decision="they go to the quarantine", warning=True)
    return replace(source, unreadable="mark"), [finding]


def _as_profiled(source: Files, seen: Profile) -> Files:
    # Keys of JSON lines may be absent wherever they have no value, in other files too.
    may_lack = source.found()[0][1] == "jsonl"
    return replace(
        source,
        column_nulls={name: c.spelled for name, c in seen.columns.items() if c.spelled},
        numbers={name: c.style for name, c in seen.columns.items() if c.style},
        columns=tuple(seen.columns) if may_lack else (),
    )


def _write(name: str, targets: tuple[Path, Path], source: Files, seen: Profile, into: Path, force: bool) -> NewDataset:
    dataset, contract = targets
    texts = {contract: seen.contract(name).dump(), dataset: dataset_yaml(name, source, seen)}
    for target, text in texts.items():
        if target.exists() and not force and target.read_text(encoding="utf-8") != text:
            raise UsageError(
                "a dataset of that name is there already",
                value=str(target),
                allowed="a new name",
                next=f"raycycle init ... --name {name}_2, or --force to write it anew",
            )
    # The dataset goes last: it is what makes the contract count.
    for target, text in texts.items():
        try:
            write_atomic(target, text)
        except OSError as error:
            raise _unwritable(into, error.strerror or str(error)) from error
    elsewhere = "" if into.name == "raycycle-conf" and into.absolute().parent == Path.cwd() else f" --config-dir {into}"
    return NewDataset(
        name=name, dataset=dataset, contract=contract, profile=seen, source=source, next=f"raycycle run dataset={name}{elsewhere}"
    )


def dataset_yaml(name: str, source: Files, seen: Profile) -> str:
    """The dataset as Hydra reads it; only what differs from the defaults is said."""
    default = Files(path="")
    fields = ("format", "delimiter", "encoding", "null_values", "column_nulls", "numbers", "columns", "unreadable")
    options = {each: getattr(source, each) for each in fields if getattr(source, each) != getattr(default, each)}
    plan = seen.split
    split: dict[str, Any]
    if plan.column is not None:
        split = {"column": plan.column, "valid_from": plan.valid_from, "holdout_from": plan.holdout_from, "later_from": None}
    else:
        split = {"valid": 0.16, "holdout": 0.2, "by": plan.by, "stratify": seen.task != "regression" and plan.by is None}
    kind = "HashSplit" if plan.column is None else "TimeSplit"
    document = {
        "name": name,
        "contract": name,
        "source": {"_target_": "tables.sources.files.Files", "path": source.path, **options},
        "split": {"_target_": f"tables.splits.{kind}", **split},
        "slices": seen.slices,
    }
    return f"# raycycle run dataset={name}\n{as_yaml(_for_hydra(document))}"


def _for_hydra(value: Any) -> Any:
    """Plain lists and dicts whose text survives OmegaConf, for which `${` has a meaning."""
    if isinstance(value, dict):
        return {key: _for_hydra(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_for_hydra(inner) for inner in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    return value

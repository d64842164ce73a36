"""Looks at a table before anything is learned from it, column by column: types, roles, ids, leaks, groups, personal data."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa

from conf.errors import UsageError
from tables.contract import Role
from tables.look.findings import Finding, counted, shown
from tables.look.identity import as_category, identity, named_as_id, whole
from tables.look.inference import Reading, read_column
from tables.look.labels import Label, find_label, read_label
from tables.look.personal import personal_kind
from tables.look.profile import MAX_BAD_FRACTION, ColumnProfile, Profile
from tables.look.schedule import Group, SplitPlan, hints_date, is_calendar, plan_split, unseen_calendar
from tables.look.suspects import LabelProbe, label_likeness
from tables.privacy.detection import IDENTIFYING

NEAR_PERFECT, SUSPECT, ORDINARY = 0.995, 0.98, 0.9
# So many rows without a gap make it a rule.
MIN_COMPLETE = 50


def profile(table: pa.Table, label: str, *, rows: int | None = None, decimal_comma: bool = False, unreadable: int = 0) -> Profile:
    """Look at `table` (a sample of `rows` rows, or all there are; `unreadable` more were no rows).

    Raises UsageError when `label` cannot be learned from it.
    """
    names = table.column_names
    find_label(label, names)
    if not table.num_rows:
        raise UsageError("the table has a header and no rows", allowed="20 rows or more", next="check the file")
    survey = _Survey(table, read_label(label, table.column(label), named_as_id(label)), decimal_comma, unreadable)
    for name in names:
        if name != label:
            survey.look(name)
    return survey.conclude(rows or table.num_rows)


class _Survey:
    """Goes through the columns one at a time, so that only those the split may need are held as arrays."""

    def __init__(self, table: pa.Table, label: Label, decimal_comma: bool, unreadable: int) -> None:
        self.table, self.label, self.decimal_comma, self.unreadable = table, label, decimal_comma, unreadable
        self.probe = LabelProbe.of(label.task, label.y)
        self.columns: dict[str, ColumnProfile] = {}
        self.findings: list[Finding] = list(label.findings)
        self.alike: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.complete: set[str] = set()
        self.scores: dict[str, float] = {}
        self.times: dict[str, Reading] = {}
        self.calendar: dict[str, Reading] = {}
        self.telling: dict[str, float] = {}
        self.groups: list[Group] = []
        self.keys: list[str] = []
        self.sliceable: dict[str, int] = {}
        self.personal: set[str] = set()
        self.bad = label.missing.copy()
        self._note_values(label.name, label.reading)
        if label.reading.nulls:
            self._find("label", f"{counted(label.reading.nulls, 'row')} without a label", "to the quarantine", columns=(label.name,))

    def _find(self, kind: str, what: str, decision: str, why: str = "", columns: tuple[str, ...] = (), warning: bool = False) -> None:
        self.findings.append(Finding(kind=kind, what=what, why=why, decision=decision, columns=columns, warning=warning))

    def look(self, name: str) -> None:
        reading = read_column(self.table.column(name), hints_date=hints_date(name), decimal_comma=self.decimal_comma)
        if reading and not (reading.nulls or reading.bad or reading.infinite or (reading.is_text and "" in reading.levels)):
            self.complete.add(name)
        reading = reading and whole(name, reading)
        if reading is None:
            self.alike["type", "nested or binary: a contract cannot hold them, so they are left out"].append(name)
            return
        what = identity(name, reading)
        if what == "code" and not reading.is_text:
            self.alike["type", "whole numbers that are names: taken as categories"].append(name)
            reading = as_category(reading)
        role, note = self._role(name, reading, what)
        self._keep(name, reading, role, note)
        if role == "feature":
            self._note_values(name, reading)
            self._suspect(name, reading)
        if reading.is_time or (reading.type == "int64" and hints_date(name)):
            self.times[name] = reading

    def _keep(self, name: str, reading: Reading, role: Role, note: str) -> None:
        self.columns[name] = ColumnProfile(
            type=reading.type,
            role=role,
            nulls=reading.nulls,
            distinct=reading.distinct,
            note=note,
            formats=reading.formats,
            spelled=reading.spelled,
            style=reading.style,
            personal=name in self.personal,
        )
        if reading.type == "int64" and is_calendar(name):
            self.calendar[name] = reading

    def _role(self, name: str, reading: Reading, what: str | None) -> tuple[Role, str]:
        if not reading.known:
            self.alike["constant", "no value in any row: not used"].append(name)
            return "observed", "all null"
        if reading.distinct == 1 and not reading.nulls:
            self.alike["constant", "one value in every row: not used"].append(name)
            return "observed", "constant"
        if kind := personal_kind(name, reading):
            self.personal.add(name)
            used = kind not in IDENTIFYING and what not in ("key", "unique", "many", "text")
            self._find(
                "personal",
                f"{shown([name])} looks like {kind}",
                f"{'kept as a feature, in a form that names nobody' if used else 'not used, and dropped at ingest'}; see its treatment",
                columns=(name,),
                warning=True,
            )
            return ("feature" if used else "observed"), kind
        if what == "key":
            self.keys.append(name)
            return "observed", "unique"
        if what == "group":
            return self._group(name, reading)
        if what in ("unique", "many", "text"):
            said = {
                "unique": "ids, nearly unique: not used",
                "many": "text with too many levels to learn: not used",
                "text": "free text: not used",
            }
            self.alike["id" if what == "unique" else "text", said[what]].append(name)
            return "observed", said[what].split(":")[0]
        return "feature", ""

    def _group(self, name: str, reading: Reading) -> tuple[Role, str]:
        codes = reading if reading.is_text else as_category(reading)
        likeness = label_likeness(codes.values, self.label.y, self.label.task)
        named = named_as_id(name)
        self.groups.append(Group(name=name, groups=reading.distinct, rows_each=reading.known / reading.distinct, likeness=likeness))
        if not named and likeness < 0.2:
            return "feature", ""
        self.alike[
            "id", f"ids that repeat: not used as features{'' if likeness >= 0.2 else '; rows of one id are not alike in their labels'}"
        ].append(name)
        return "observed", "id of a group of rows"

    def _note_values(self, name: str, reading: Reading) -> None:
        quoted = shown([name])
        if reading.spelled:
            what = f"{quoted} writes null as {', '.join(map(repr, reading.spelled[:5]))}"
            self._find("null", what, "read as null", columns=(name,))
        if reading.bad and reading.bad_rows is not None:
            self.bad |= reading.bad_rows
            what = f"{counted(reading.bad, 'value')} of {quoted} cannot be read as {reading.type}"
            self._find("type", what, "those rows go to the quarantine", columns=(name,), warning=True)
        if reading.style:
            self.alike["type", f"numbers are written like {reading.style}: read as numbers"].append(name)
        if len(reading.formats) > 1:
            self._find("date", f"{quoted} mixes date formats", f"read as {', then '.join(reading.formats)}", columns=(name,), warning=True)
        if reading.ambiguous:
            what = f"{reading.ambiguous:,} dates of {quoted} could be read with day and month exchanged"
            self._find(
                "date", what, f"read as {reading.formats[0]}; change formats in the contract if wrong", columns=(name,), warning=True
            )
        if reading.infinite and name != self.label.name:
            self.alike["type", "infinite values: learned as missing, with an indicator"].append(name)
        if reading.is_text and 0.2 < reading.mixed < 1:
            self.alike["type", "numbers mixed with text: taken as categories"].append(name)

    def _suspect(self, name: str, reading: Reading) -> None:
        if self.probe.is_copy(reading):
            what = f"{shown([name])} is a copy of {self.label.name}"
            self._find("leak", what, "not used", "each value stands for one label", (name,), warning=True)
            self.columns[name] = replace(self.columns[name], role="observed", note="copy of the label")
            return
        self.scores[name] = self.probe.score(reading)
        if (share := self.probe.tells_by_null(reading)) is not None:
            self.telling[name] = share
        if reading.is_text and 2 <= reading.distinct <= 12:
            counts = np.bincount(reading.values[reading.values >= 0])
            if counts.min() >= max(20, 0.02 * len(reading.values)):
                self.sliceable[name] = reading.distinct

    def _judge_leaks(self) -> None:
        """A column far better than all others is left out; several good ones only mean that the task is easy."""
        ranked = sorted(self.scores, key=lambda name: -self.scores[name])
        near = [name for name in ranked if self.scores[name] >= NEAR_PERFECT]
        best = max((self.scores[name] for name in ranked[len(near) :]), default=1.0)
        for name in near if best < ORDINARY else ():
            measured = f"{self.probe.measure} {self.scores[name]:.3f}"
            said = f"{shown([name])} alone predicts {self.label.name}: {measured}, other columns at most {best:.3f}"
            self._find("leak", said, "not used; if it is known before the outcome, give it role feature", "", (name,), warning=True)
            self.columns[name] = replace(
                self.columns[name], role="observed", note=f"leak: {self.probe.measure} {self.scores[name]:.3f} alone"
            )
        kept = [name for name in ranked if self.columns[name].role == "feature"]
        strong = [name for name in kept if self.scores[name] >= SUSPECT]
        if not strong and len(kept) > 1 and self._stands_out(self.scores[kept[0]], self.scores[kept[1]]):
            strong = kept[:1]
        if strong:
            said = ", ".join(f"{shown([name])} {self.scores[name]:.3f}" for name in strong[:6])
            what = f"columns that alone predict {self.label.name} well ({self.probe.measure}): {said}"
            decision = "kept; if one is known only after the outcome, give it role observed"
            self._find("leak", what, decision, columns=tuple(strong), warning=True)
        for name, share in self.telling.items():
            if self.columns[name].role == "feature":
                what = f"{share:.1%} of the rows without {shown([name])} have one label"
                decision = "kept; if it is filled in only after the outcome, give it role observed"
                self._find("leak", what, decision, columns=(name,), warning=True)

    def _stands_out(self, best: float, second: float) -> bool:
        chance = 0.5 if self.label.task == "binary" else 0.0
        return best - chance > 0.75 * (1 - chance) and second - chance < 0.6 * (best - chance)

    def conclude(self, rows: int) -> Profile:
        self._judge_leaks()
        key = self._choose_key()
        times = {name: reading for name, reading in self.times.items() if self.columns[name].role == "feature"}
        split, said = plan_split(times, self.groups, self.label)
        self._use_time(split)
        if rows == self.table.num_rows >= MIN_COMPLETE:
            self._require_complete()
        budget = self._budget()
        self._merge_alike()
        columns = {self.label.name: self._label_column(), **self.columns}
        columns = {name: columns[name] for name in self.table.column_names if name in columns}
        self._require_features(columns)
        order = {kind: i for i, kind in enumerate(("task", "label", "split", "group", "leak", "personal"))}
        findings = sorted([*self.findings, *said], key=lambda finding: order.get(finding.kind, len(order)))
        return Profile(
            label=self.label.name,
            task=self.label.task,
            positive=self.label.positive,
            classes=self.label.classes,
            metric=self.label.metric,
            rows=rows,
            looked_at=self.table.num_rows,
            columns=columns,
            findings=findings,
            split=split,
            key=key,
            slices=[n for n in sorted(self.sliceable, key=lambda n: self.sliceable[n]) if columns[n].role == "feature"][:3],
            max_bad_fraction=budget,
            infinite_labels=self.label.reading.infinite > 0,
        )

    def _choose_key(self) -> list[str]:
        if not self.keys:
            return []
        chosen = next((name for name in self.keys if named_as_id(name)), self.keys[0])
        self.columns[chosen] = replace(self.columns[chosen], role="key")
        self._find("id", f"{shown([chosen])} is different in every row", "it is the key, not a feature", columns=(chosen,))
        if others := tuple(name for name in self.keys if name != chosen):
            self._find("id", f"{shown(others)}: also different in every row", "not used", columns=others)
        return [chosen]

    def _use_time(self, split: SplitPlan) -> None:
        if split.column is None:
            return
        time = self.times[split.column]
        if time.type == "int64":
            self.columns[split.column] = replace(self.columns[split.column], role="time", note="seconds since 1970 or alike")
        for name, reading in self.calendar.items():
            if self.columns[name].role == "feature" and unseen_calendar(reading.values, time.values):
                self.columns[name] = replace(self.columns[name], role="observed", note="newer rows have values never seen in training")
                self.alike["date", "newer rows have values that no older row has: not used"].append(name)

    def _require_complete(self) -> None:
        """Where no row of the whole table lacks a value, a row that does is a mistake of who sends it, not a null to learn from."""
        names = [name for name, column in self.columns.items() if column.role == "feature" and name in self.complete]
        self.columns |= {name: replace(self.columns[name], required=True) for name in names}
        if names:
            have, them = ("has", "it") if len(names) == 1 else ("have", "them")
            what = f"{counted(len(names), 'column')} {have} no missing value"
            self._find("null", what, f"rows without {them} will be refused; set nullable: true to allow it", columns=tuple(names))

    def _merge_alike(self) -> None:
        for (kind, said), names in self.alike.items():
            what, _, decision = said.partition(": ")
            self._find(kind, f"{shown(names)}: {what}", decision, columns=tuple(names))

    def _label_column(self) -> ColumnProfile:
        reading = self.label.reading
        return ColumnProfile(
            type=self.label.type, role="label", nulls=reading.nulls, distinct=reading.distinct, spelled=reading.spelled, style=reading.style
        )

    def _require_features(self, columns: dict[str, ColumnProfile]) -> None:
        if any(column.role == "feature" for column in columns.values()):
            return
        reasons = "; ".join(
            f"{shown([name])}: {c.note or c.role}" for name, c in itertools.islice(columns.items(), 8) if name != self.label.name
        )
        raise UsageError(
            "no column is left to learn from",
            value=reasons or "the label is the only column",
            allowed="one column or more that describes a row",
            next="check the delimiter and the label, or add columns",
        )

    def _budget(self) -> float:
        share = (int(self.bad.sum()) + self.unreadable) / (len(self.bad) + self.unreadable)
        if share <= 0.8 * MAX_BAD_FRACTION:
            return MAX_BAD_FRACTION
        budget = min(math.ceil(share * 125) / 100 + 0.01, 0.99)
        self._find(
            "label", f"{share:.1%} of the rows go to the quarantine", f"max_bad_fraction is {budget:.2f} in the contract", warning=True
        )
        return round(budget, 2)

"""Columns without a class that look personal stop ingest, whatever blocks their rows come in; one command settles it."""

from __future__ import annotations

import functools
import operator
import random
import shlex
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from conf.errors import UsageError
from flows.classify import classify
from tables.contract import Column, Contract
from tables.privacy.suspicion import KEPT, Suspicion, refuse_unclassified, suspects, suspicion

ROWS = 3000
COLUMNS = {
    "contact": Column(type="string", role="observed"),
    "card": Column(type="int64", role="observed"),
    "surname": Column(type="string"),
    "birth_date": Column(type="date"),
    "city": Column(type="string"),
    "count": Column(type="int64"),
    "y": Column(type="bool", role="label"),
}
CONTRACT = Contract(name="c", task="binary", label="y", columns=COLUMNS)


def cards(count: int) -> list[int]:
    from stdnum import luhn

    bodies = (f"4{number:014d}" for number in random.Random(0).sample(range(10**13), count))
    return [int(body + luhn.calc_check_digit(body)) for body in bodies]


def table() -> pa.Table:
    return pa.table(
        {
            "contact": [f"p{number}@example.org" for number in range(ROWS)],
            "card": cards(ROWS),
            "surname": [f"Name{number % 700}" for number in range(ROWS)],
            "birth_date": pa.array(range(ROWS), pa.int32()).cast(pa.date32()),
            "city": ["Oslo", "Rome", "Lima"] * (ROWS // 3),
            "count": range(ROWS),
            "y": [True, False] * (ROWS // 2),
        }
    )


def test_the_sample_hangs_on_no_block_layout_and_no_order() -> None:
    whole = table()
    order = random.Random(3).sample(range(ROWS), ROWS)
    shuffled = whole.take(pa.array(order))
    pieces = [shuffled.slice(at, 170) for at in range(0, ROWS, 170)]
    merged = functools.reduce(operator.add, (suspicion(CONTRACT, piece) for piece in reversed(pieces)), Suspicion())
    once = suspicion(CONTRACT, whole)
    assert suspects(CONTRACT, merged) == suspects(CONTRACT, once)
    for name, sample in once.columns.items():
        assert merged.columns[name].known == sample.known
        assert sorted(merged.columns[name].smallest.items()) == sorted(sample.smallest.items())
    contact = once.columns["contact"]
    assert len(contact.smallest) == KEPT and contact.distinct == pytest.approx(ROWS, rel=0.2)
    assert once.columns["city"].distinct == 3 and "count" in once.columns and once.columns["count"].known == 0


def test_the_refusal_gives_the_command_that_settles_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contact looks like e-mail addresses") as refused:
        refuse_unclassified(CONTRACT, suspicion(CONTRACT, table()), "people")
    assert not any(text in str(refused.value.as_json()) for text in ("example.org", "Name1"))
    words = shlex.split(refused.value.next.partition("  (")[0])
    assert words[:4] == ["raycycle", "data", "classify", "people"]
    answers = words[4:]
    assert set(answers) == {
        "contact=personal:drop",
        "card=personal:drop",
        "surname=personal:hash",
        "birth_date=personal:generalise,to=month",
    }
    tree = config(tmp_path)
    done = classify("people", answers, tree)
    settled = Contract.load(done.file)
    refuse_unclassified(settled, suspicion(settled, table()))
    assert settled.columns["birth_date"].treatment == {"generalise": {"to": "month"}}


def test_classified_columns_cost_nothing_and_are_not_asked_again() -> None:
    from msgspec import structs

    told = {name: structs.replace(column, privacy_class="internal") for name, column in COLUMNS.items()}
    contract = structs.replace(CONTRACT, columns=told)
    assert suspicion(contract, table()) == Suspicion()
    refuse_unclassified(contract, Suspicion())


def config(folder: Path) -> Path:
    """A configuration tree with the dataset `people`, its contract as a person would write it."""
    for group in ("dataset", "contract"):
        (folder / group).mkdir()
    dataset = {"name": "people", "contract": "people", "source": {"_target_": "tables.sources.files.Files", "path": "people.csv"}}
    dataset["split"] = {"_target_": "tables.splits.HashSplit", "valid": 0.2, "holdout": 0.2}  # type: ignore[assignment]
    (folder / "dataset" / "people.yaml").write_text(yaml.safe_dump(dataset))
    lines = [f"  {name}: {{type: {column.type}, role: {column.role}}}  # of {name}" for name, column in COLUMNS.items()]
    head = "# What a person promises.\nname: people\ntask: binary\nlabel: y\n"
    (folder / "contract" / "people.yaml").write_text("\n".join([f"{head}columns:", *lines, ""]))
    return folder


def test_classify_changes_its_columns_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "contract" / "people.yaml"
    before = (config(tmp_path) / "contract" / "people.yaml").read_text().splitlines()
    classify("people", ["surname=personal:mask,keep=2", "contact=secret", "city=public"], tmp_path)
    after = file.read_text().splitlines()
    assert len(after) == len(before)
    changed = {line.split(":")[0].strip(): line for old, line in zip(before, after, strict=True) if old != line}
    assert changed.keys() == {"surname", "contact", "city"} and all(line.endswith(f"# of {name}") for name, line in changed.items())
    contract = Contract.load(file)
    assert (contract.columns["contact"].privacy_class, contract.columns["contact"].treatment) == ("secret", "drop")
    assert contract.columns["surname"].treatment == {"mask": {"keep": 2}}
    classify("people", ["surname=internal"], tmp_path)
    assert Contract.load(file).columns["surname"] == Column(type="string", privacy_class="internal")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("surnam=personal", "did you mean 'surname'"),
        ("surname=privat", "no such class"),
        ("surname=personal:shred", "no such treatment"),
        ("surname=personal:drop", "treated alike"),
        ("city", "no such column"),
    ],
)
def test_an_answer_that_does_not_fit_writes_nothing(tmp_path: Path, answer: str, said: str) -> None:
    file = config(tmp_path) / "contract" / "people.yaml"
    before = file.read_bytes()
    with pytest.raises(UsageError, match=said):
        classify("people", ["contact=personal", answer], tmp_path)
    assert file.read_bytes() == before

"""What a look at a table decides: the task, types, roles, leaks, groups and the split."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn import datasets

from conf.errors import UsageError
from tables.checking import check
from tables.look.inference import read_column
from tables.look.personal import personal_kind
from tables.look.profile import Profile
from tables.look.survey import profile
from tables.look.suspects import likeness
from tables.privacy.numbers import luhn

N = 400
RANDOM = np.random.default_rng(7)
X = RANDOM.normal(size=N).round(3)
BINARY = np.where(X + RANDOM.normal(size=N) > 0, "yes", "no")


def look(label: str = "y", **columns: Sequence[Any]) -> Profile:
    return profile(pa.table({"x": X[: len(next(iter(columns.values()), X))], **columns}), label)


def looked(label: Sequence[Any] = BINARY, **columns: Sequence[Any]) -> Profile:
    return look(**columns, y=label)


def texts(values: Sequence[Any]) -> list[str]:
    return [str(value) for value in values]


def said(profile: Profile, kind: str, column: str = "") -> str:
    return " | ".join(f.line() for f in profile.findings if f.kind == kind and (not column or column in f.columns))


@pytest.mark.parametrize(
    ("label", "task", "kind", "positive"),
    [
        (BINARY, "binary", "string", "yes"),
        (texts(BINARY == "yes"), "binary", "bool", True),
        (BINARY == "yes", "binary", "bool", True),
        (texts(np.where(BINARY == "yes", 1, 0)), "binary", "int64", 1),
        (texts(np.where(BINARY == "yes", 1.0, 0.0)), "binary", "int64", 1),
        (np.where(BINARY == "yes", 1.0, -1.0), "binary", "int64", 1),
        (np.where(X > 1, 2, 1), "binary", "int64", 2),
        (np.where(X > -1, 2, 1), "binary", "int64", 1),
        (np.where(X > -1, "churned", "not churned"), "binary", "string", "churned"),
        (np.where(X > 1, 0.5, 1.5), "binary", "string", "0.5"),
        (texts(np.arange(N) % 5), "multiclass", "int64", None),
        ([*"abcd"] * (N // 4), "multiclass", "string", None),
        (texts(np.round(X * 100)), "regression", "double", None),
        (texts(np.arange(N) % 40), "regression", "double", None),
        (np.exp(X), "regression", "double", None),
    ],
)
def test_task_comes_from_the_label(label: Sequence[Any], task: str, kind: str, positive: object) -> None:
    found = looked(label)
    assert (found.task, found.columns["y"].type, found.positive) == (task, kind, positive)
    contract = found.contract("t")
    assert check(contract, pa.table({"x": X, "y": label})).bad.num_rows == 0
    assert contract.columns["y"].role == "label"


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ([None] * N, "no value in any row"),
        (["a"] * N, "one value in every row"),
        (["a"] * (N - 1) + ["b"], "fewer than two classes"),
        (["1", "2"] * 5 + [None] * (N - 10), "too few rows"),
        (texts(range(1000, 1000 + N)), "an id"),
        ([f"C{i}" for i in range(N)], "an id"),
        ([f"the customer called about number {i} and left" for i in range(N)], "free text"),
        ([f"2024-01-{i % 28 + 1:02d}" for i in range(N)], "a date"),
        ([[1]] * N, "not a flat column"),
    ],
)
def test_columns_that_cannot_be_a_label(label: Sequence[Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        looked(label)


@pytest.mark.parametrize(("typed", "hint"), [("Y", "'y'"), (" y", "'y'"), ("xx", "'x'")])
def test_mistyped_label_is_suggested(typed: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean {hint}"):
        look(typed, y=BINARY)


def test_rare_classes_are_named_and_quarantined() -> None:
    label = ["once", *["abc"[i % 3] for i in range(N - 1)]]
    found = looked(label)
    assert "once" in said(found, "label")
    assert check(found.contract("t"), pa.table({"x": X, "y": label})).bad.num_rows == 1


@pytest.mark.parametrize(
    ("values", "kind", "more"),
    [
        (["1", "-2", None] * 9, "int64", {}),
        (["1", "2.5", "1e3"] * 9, "double", {}),
        (["1", "-inf", "2.5"] * 9, "double", {"infinite": 9}),
        (["1", "-", "none", "3"] * 9, "int64", {"spelled": ("-", "none"), "nulls": 18}),
        (["red", "-", "none", "3"] * 9, "string", {"spelled": ()}),
        ([*texts(range(99)), "abc"], "int64", {"bad": 1, "nulls": 0}),
        ([*texts(range(30)), "abc"], "string", {}),
        (["00501", "10001"] * 9, "string", {}),
        (["4111111111111111", "4012888888881881"], "string", {}),
        (["+4917012345678", "+4917012345679"], "string", {}),
        (["1,200", "15", "1,000,000"], "int64", {"style": "1,234.5"}),
        (["$1,200.50", "$15"], "double", {"style": "1,234.5"}),
        (["1.200,5", "15"], "double", {"style": "1.234,5"}),
        (["Yes", "no", "NO"], "bool", {}),
        (["yes", "no", "unknown"], "string", {}),
        (["2024-01-31", "2024-02-01"], "date", {"formats": ("%Y-%m-%d",)}),
        (["2024-01-31", "2024-02-01T10:00:00.5+02:00"], "timestamp", {"formats": ("ISO8601",)}),
        (["31/1/2024", "1/2/2024"], "date", {"formats": ("%d/%m/%Y",), "ambiguous": 0}),
        (["1/31/2024", "1/2/2024"], "date", {"formats": ("%m/%d/%Y",), "ambiguous": 0}),
        (["1/2/2024", "3/4/2024"], "date", {"formats": ("%m/%d/%Y",), "ambiguous": 2}),
        (["1.2.2024", "3.4.2024"], "date", {"formats": ("%d.%m.%Y",), "ambiguous": 2}),
        (["31/1/2024", "1/2/2024", "1/31/2024"], "date", {"ambiguous": 1}),
        (["5 Jan 2024", "January 6, 2024"], "date", {"formats": ("%d %b %Y", "%b %d, %Y")}),
        (["1/2/24 3:04 PM", "12/31/24 3:04 AM"], "timestamp", {"formats": ("%m/%d/%y %I:%M %p",)}),
        (["20240101", "20241231"], "int64", {}),
        (["10.1.2.3", "192.168.100.200"], "string", {}),
        (["12:30", "13:40"], "string", {}),
        ([1, None, 3], "int64", {"nulls": 1}),
        ([1.5, float("nan"), None], "double", {"nulls": 2}),
        ([2**60, 2**60 + 1], "string", {"distinct": 2}),
        ([True, None], "bool", {}),
        ([None, None], "string", {"nulls": 2}),
    ],
)
def test_type_of_a_column(values: list, kind: str, more: dict) -> None:
    reading = read_column(pa.chunked_array([pa.array(values)]))
    assert reading is not None
    assert {"type": reading.type, **{name: getattr(reading, name) for name in more}} == {"type": kind, **more}


def test_compact_dates_need_a_name_that_says_so() -> None:
    reading = read_column(pa.chunked_array([["20240101", "20241231"]]), hints_date=True)
    assert reading is not None and (reading.type, reading.formats) == ("date", ("%Y%m%d",))


def test_contract_reads_what_the_profile_read() -> None:
    columns = {
        "price": [*texts(X[:-1]), "abc"],
        "when_seen": [f"{i % 28 + 1}/{i % 12 + 1}/2024" for i in range(N)],
        "zip": [f"{i % 97:05d}" for i in range(N)],
    }
    found = looked(**columns)
    assert said(found, "type", "price") and said(found, "date", "when_seen") == ""
    checked = check(found.contract("t"), pa.table({"x": X, **columns, "y": BINARY}))
    assert checked.bad["_reason"].to_pylist() == ["price is not a double"]
    assert checked.good.schema.field("zip").type == pa.string()


@pytest.mark.parametrize(
    ("name", "values", "role", "kind"),
    [
        ("row", range(N), "key", "int64"),
        ("order_no", [f"A-{i:05d}" for i in range(N)], "key", "string"),
        ("PassengerId", RANDOM.permutation(N) * 3, "key", "int64"),
        ("customer_id", [i // 4 for i in range(N)], "observed", "int64"),
        ("customer_id", [float(i // 4) for i in range(N)], "observed", "int64"),
        ("store_id", [i % 8 for i in range(N)], "feature", "string"),
        ("zip", [10000 + i % 90 for i in range(N)], "feature", "string"),
        ("body_mass_index", [18 + i % 30 for i in range(N)], "feature", "int64"),
        ("income", RANDOM.permutation(N) * 7, "feature", "int64"),
        ("city", [f"town {i % 60}" for i in range(N)], "feature", "string"),
        ("product", [f"thing {i % 100}" for i in range(N)], "feature", "string"),
        ("comment", [f"they said that number {i} was not what they wanted" for i in range(N)], "observed", "string"),
        ("street", [f"{chr(97 + i % 26)}{chr(97 + i // 26)} road" for i in range(N)], "observed", "string"),
        ("same", ["a"] * N, "observed", "string"),
        ("nothing", [None] * N, "observed", "string"),
        ("email", [f"user{i % 90}@example.com" for i in range(N)], "observed", "string"),
        ("birth_date", [f"{1950 + i % 50}-01-{i % 28 + 1:02d}" for i in range(N)], "feature", "date"),
        ("maybe", ["a", None] * (N // 2), "feature", "string"),
    ],
)
def test_role_of_a_column(name: str, values: Sequence[Any], role: str, kind: str) -> None:
    found = looked(**{name: list(values)})
    assert (found.columns[name].role, found.columns[name].type) == (role, kind)
    if role != "feature":
        assert any(name in f.columns for f in found.findings), "never silently"
    assert found.key == ([name] if role == "key" else [])


def test_copies_of_the_label_are_not_features() -> None:
    recoded = np.where(BINARY == "yes", 7, 3)
    only_when_yes = np.where(BINARY == "yes", "1", None)
    found = looked(recoded=recoded, only_when_yes=only_when_yes)
    assert {found.columns[c].role for c in ("recoded", "only_when_yes")} == {"observed"}
    assert "copy" in said(found, "leak", "recoded")
    rescaled = looked(np.exp(X), fahrenheit=np.exp(X) * 9 / 5 + 32)
    assert rescaled.columns["fahrenheit"].role == "observed"


def test_nearly_perfect_column_is_left_out_with_its_number() -> None:
    noisy = np.where(BINARY == "yes", 10, 0) + RANDOM.normal(size=N)
    found = looked(noisy=noisy)
    assert found.columns["noisy"].role == "observed" and "AUC 1.000" in said(found, "leak", "noisy")
    bound = np.exp(X) * (1 + RANDOM.normal(size=N) * 1e-4)
    assert profile(pa.table({"u": RANDOM.normal(size=N), "bound": bound, "y": np.exp(X)}), "y").columns["bound"].role == "observed"


def test_easy_task_keeps_its_strong_features() -> None:
    iris = datasets.load_iris(as_frame=True).frame
    iris["target"] = iris["target"] == 0
    found = profile(pa.Table.from_pandas(iris, preserve_index=False), "target")
    assert all(column.role == "feature" for name, column in found.columns.items() if name != "target")
    assert "petal length" in said(found, "leak")


def test_only_feature_is_kept_however_strong() -> None:
    assert look("y", x=X, y=np.where(X > 0, "yes", "no")).columns["x"].role == "feature"


def test_nulls_that_tell_the_label_are_named() -> None:
    filled = np.where((BINARY == "yes") | (RANDOM.random(N) < 0.5), "seen", None)
    found = looked(filled=[v and v + "abc"[i % 3] for i, v in enumerate(filled)])
    assert found.columns["filled"].role == "feature" and "100.0% of the rows without filled" in said(found, "leak")


def test_no_feature_left_is_refused() -> None:
    with pytest.raises(UsageError, match="no column is left"):
        profile(pa.table({"id": np.arange(N), "y": BINARY}), "y")


def test_groups_that_leak_are_kept_together() -> None:
    patients = np.repeat(np.arange(N // 4), 4)
    alike = np.where(RANDOM.normal(size=N // 4)[patients] > 0, "ill", "well")
    found = looked(alike, patient_id=patients)
    assert found.split.by == "patient_id" and found.columns["patient_id"].role == "observed"
    assert looked(patient_id=patients).split.by is None
    assert likeness(patients, (alike == "ill").astype(float)) == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "splits"), [("date", True), ("order_date", True), ("birth_date", False), ("signup_date", False)])
def test_events_are_split_by_time(name: str, splits: bool) -> None:
    days = np.datetime64("2024-01-01") + np.sort(RANDOM.integers(0, 200, N))
    found = looked(**{name: texts(days), "month": [int(str(d)[5:7]) for d in days]})
    assert (found.split.column == name) is splits
    if splits:
        assert days[0] < np.datetime64(found.split.valid_from) < np.datetime64(found.split.holdout_from) < days[-1]
        assert found.contract("t").time == name and found.columns[name].role == "feature"
        assert found.columns["month"].role == "observed", "its later values were never seen"


def test_time_split_needs_both_classes_in_each_part() -> None:
    days = texts(np.datetime64("2024-01-01") + np.arange(N))
    found = looked(np.where(np.arange(N) < N * 0.6, "no", BINARY), date=days)
    assert found.split.column is None or said(found, "split")
    assert looked(np.where(np.arange(N) < N * 0.7, "no", "yes"), date=days).split.column is None


def test_epoch_seconds_are_a_time_but_no_feature() -> None:
    found = looked(timestamp=1_700_000_000 + np.arange(N) * 60)
    assert found.split.column == "timestamp" and isinstance(found.split.valid_from, int)
    assert found.columns["timestamp"].role == "time"


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("contact", [f"a{i}@b.org" for i in range(50)], "e-mail addresses"),
        ("contact", [f"+49 170 12345{i:02d}" for i in range(50)], "telephone numbers"),
        ("payment", ["4111 1111 1111 1111", "5500-0000-0000-0004", "4012888888881881"], "card numbers"),
        ("account", ["DE89370400440532013000", "GB82WEST12345698765432", "FR1420041010050500013M02606"], "bank account numbers"),
        ("host", [f"10.0.0.{i}" for i in range(50)], "IP addresses"),
        ("full_name", [f"Ann{chr(97 + i % 26)} Lee{chr(97 + i // 26)}" for i in range(50)], "names of people"),
        ("product_name", [f"widget {i}" for i in range(50)], None),
        ("version", ["1.2.3", "1.2.4", "2.0.0"], None),
        ("code", ["4111 1111 1111 1112", "5500-0000-0000-0005", "4012888888881882"], None),
    ],
)
def test_personal_data_is_recognised(name: str, values: list, kind: str | None) -> None:
    reading = read_column(pa.chunked_array([values]))
    assert reading is not None and personal_kind(name, reading) == kind


def test_luhn_knows_check_digits() -> None:
    assert luhn("4111111111111111") and not luhn("4111111111111112") and not luhn("0000000000000000")


def test_quarantine_budget_follows_what_was_seen() -> None:
    label = [None if i % 3 == 0 else v for i, v in enumerate(BINARY)]
    found = looked(label)
    assert 0.34 < found.max_bad_fraction < 0.5 and "max_bad_fraction" in said(found, "label")
    assert check(found.contract("t"), pa.table({"x": X, "y": label})).bad.num_rows / N < found.max_bad_fraction


def test_columns_without_a_gap_are_required() -> None:
    gaps = {
        "some": ["a", None] * (N // 2),
        "blank": ["a", ""] * (N // 2),
        "wrong": [*texts(X[:-1]), "abc"],
        "endless": np.where(np.arange(N) == 3, np.inf, RANDOM.normal(size=N)),
        "nan": np.where(np.arange(N) == 3, np.nan, RANDOM.normal(size=N)),
    }
    full = {"city": [f"town {i % 60}" for i in range(N)], "born": [f"{1950 + i % 50}-01-{i % 28 + 1:02d}" for i in range(N)]}
    found = looked(**gaps, **full, row=range(N), same=["a"] * N)
    columns = found.contract("t").columns
    assert [name for name, column in columns.items() if column.role == "feature" and not column.nullable] == ["x", "city", "born"]
    assert columns["same"].nullable and not columns["row"].nullable and not columns["y"].nullable
    assert "3 columns have no missing value: rows without them will be refused; set nullable: true" in said(found, "null")


def test_a_sample_or_a_few_rows_require_no_column() -> None:
    table = pa.table({"x": X, "y": BINARY})
    for found in (profile(table, "y", rows=N * 2), profile(table.slice(0, 49), "y")):
        assert found.contract("t").columns["x"].nullable and said(found, "null") == ""
    assert "1 column has no missing value" in said(profile(table.slice(0, 50), "y"), "null")


def test_infinite_labels_go_to_the_quarantine() -> None:
    label = np.where(np.arange(N) % 50 == 0, np.inf, np.exp(X))
    found = looked(label)
    assert check(found.contract("t"), pa.table({"x": X, "y": label})).bad.num_rows == N // 50


def test_metric_follows_the_balance() -> None:
    assert looked().metric == "log_loss"
    assert looked(np.where(np.arange(N) % 20 == 0, "yes", "no")).metric == "average_precision"
    assert looked(np.exp(X)).metric == "rmse"


def test_odd_values_raise_no_warning() -> None:
    odd = np.where(np.arange(N) % 2 == 0, 1e308, -np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        looked(np.exp(X), odd=odd, zeros=[0.0, None] * (N // 2), big=[10**18 + i for i in range(N)], nested=[{"a": 1}] * N)


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "diabetes", "digits"])
def test_bundled_sets_lose_no_feature(name: str) -> None:
    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    found = profile(pa.Table.from_pandas(frame, preserve_index=False), "target")
    assert found.task == {"breast_cancer": "binary", "diabetes": "regression"}.get(name, "multiclass")
    lost = {c for c, column in found.columns.items() if column.role == "observed"}
    assert lost == ({"pixel_0_0", "pixel_4_0", "pixel_4_7"} if name == "digits" else set())
    assert found.split.column is None and found.split.by is None

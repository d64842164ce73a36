"""Small drawings and words of distributions: exact bins, two sketches on the same ones, honest where a sketch is coarse."""

from __future__ import annotations

from xml.etree import ElementTree

import pyarrow as pa
import pytest

from flows import spreads
from tables import distributions
from tables.distributions import merged, spread, total_variation
from tables.sketches import sketch


def test_few_values_have_a_bin_each_and_many_share_them() -> None:
    few = spread(sketch(pa.array([1, 1, 2, 5])), sketch(pa.array([2, 9])))
    assert few is not None
    assert [list(counts) for counts in few.counts] == [[2, 1, 1, 0], [0, 1, 0, 1]]
    many = spread(sketch(pa.array(range(1000))))
    assert many is not None
    assert (len(many.counts[0]), many.counts[0].sum()) == (distributions.BINS, 1000)
    assert max(many.counts[0]) < 60


def test_rare_levels_are_one_bin() -> None:
    found = spread(sketch(pa.array([f"level {i % 50:02}" for i in range(100)] + ["often"] * 9)))
    assert found is not None
    assert (found.labels[0], found.labels[-1], len(found.labels)) == ("often", distributions.REST, distributions.BINS)
    assert found.counts[0].sum() == 109


@pytest.mark.parametrize(
    ("one", "other", "far"), [([1, 2], [2, 1], 0.0), (["a"], ["b"], 1.0), (["a", "b"], ["a", "a"], 0.5), ([0.5, None], [0.5], 0.0)]
)
def test_total_variation_by_hand(one: list[object], other: list[object], far: float) -> None:
    assert total_variation(sketch(pa.array(one)), sketch(pa.array(other))) == far


def test_what_cannot_be_compared_has_no_distance() -> None:
    assert total_variation(sketch(pa.nulls(3, pa.float64())), sketch(pa.array([1.0]))) is None


def test_too_many_levels_overflow_whatever_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "MAX_LEVELS", 3)
    parts = [{"t": distributions.bounded_sketch(pa.array(texts))} for texts in (["a", "b"], ["b", "c"], ["d"])]
    forward, back = merged(merged(parts[0], parts[1]), parts[2]), merged(merged(parts[2], parts[1]), parts[0])
    assert forward == back
    assert spreads.told(forward["t"], "string") == "too many different texts to count"
    assert spreads.drawn(forward["t"]) == ""


def test_a_drawing_is_svg_and_a_second_sketch_is_a_line_over_it() -> None:
    one, other = sketch(pa.array([1.0, 2.0, 2.0])), sketch(pa.array([2.0, 3.0]))
    assert len(ElementTree.fromstring(spreads.drawn(one, other))) == 2
    assert len(ElementTree.fromstring(spreads.drawn(one))) == 1
    assert spreads.drawn(None) == spreads.drawn(sketch(pa.nulls(2, pa.string()))) == ""


@pytest.mark.parametrize(
    ("values", "kind", "words", "different"),
    [
        ([2013, 2014], "int64", "2013 · 2013 · 2014", "2"),
        ([10_000_000], "int64", "10,000,000 · 10,000,000 · 10,000,000", "≥ 1"),
        ([0.125, None], "double", "0.125 · 0.125 · 0.125", "≥ 1"),
        ([0, 86_400], "timestamp", "1970-01-01 00:00 to 1970-01-02 00:00", "–"),
        ([True, False, True, True], "bool", "true 75.0%", "2"),
        (["a", "b", "a", None], "string", "a 66.7%, b 33.3%", "2"),
        (["a", "b"], "string", "2 texts, each once", "2"),
        ([None], "string", "no value", "0"),
    ],
)
def test_values_in_words(values: list[object], kind: str, words: str, different: str) -> None:
    array = pa.array(values, pa.string()) if kind == "string" else pa.array(values)
    assert spreads.told(sketch(array), kind) == words
    assert spreads.distinct(sketch(array), kind) == different

"""Personal data are found by form and check digit, and what only looks alike is left alone."""

from __future__ import annotations

import random

import pytest

from bench import personal
from tables.privacy.detection import Values, column_kind, find, masked


def of(values: list[str], known: int | None = None) -> Values:
    distinct = list(dict.fromkeys(values))
    return Values(distinct, known or len(values), len(distinct), True)


@pytest.mark.parametrize("kind", personal.POSITIVE)
def test_columns_of_each_kind_are_found_whatever_their_name(kind: str) -> None:
    chance = random.Random(7)
    for make in personal.POSITIVE[kind][:4]:
        assert column_kind("x", of([make(chance) for _ in range(100)])) == kind


@pytest.mark.parametrize("kind", personal.NEGATIVE)
def test_columns_that_only_look_alike_are_left_alone(kind: str) -> None:
    chance = random.Random(7)
    assert column_kind("x", of([personal.NEGATIVE[kind](chance) for _ in range(120)])) is None


def test_places_in_a_text_are_exact_and_masked_by_kind() -> None:
    text = "Write to ann.lee@example.org, or call +49 30 901820 (card 4111 1111 1111 1111, IBAN DE89 3704 0044 0532 0130 00 OK)."
    found = {text[each.start : each.stop]: each.kind for each in find(text)}
    assert found == {
        "ann.lee@example.org": "e-mail addresses",
        "+49 30 901820": "telephone numbers",
        "4111 1111 1111 1111": "card numbers",
        "DE89 3704 0044 0532 0130 00": "bank account numbers",
    }
    assert masked(text).startswith("Write to <e-mail addresses>, or call <telephone numbers> (card <card numbers>, IBAN <bank")


@pytest.mark.parametrize(
    "text",
    [
        "version 1.22.333.4, built at 12:34:56 on 2024-01-31",
        "order 4111111111111112 weighs 4.111111111111111 kg",
        "f47ac10b-58cc-4372-a567-0e02b2c3d479",
        "host 1.2.3.4 answered ::",
        "ISBN 978-3-16-148410-0",
    ],
)
def test_nothing_personal_is_seen_in(text: str) -> None:
    assert find(text) == []


def test_free_text_is_personal_once_several_people_wrote_an_address_into_it() -> None:
    notes = [f"please call back about parcel {number}" for number in range(100)]
    assert column_kind("notes", of(notes)) is None
    assert column_kind("notes", of([*notes, *(f"my address is p{n}@example.com thanks" for n in range(3))])) == "text with personal data"


def test_measured_precision_and_recall_do_not_fall() -> None:
    chosen = personal.scores(personal.in_columns(1, 10))
    assert min(precision for precision, _ in chosen.values()) == 1.0
    assert min(recall for _, recall in chosen.values()) >= 0.9

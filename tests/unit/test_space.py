"""Search spaces in Hydra's grammar: what can be searched, and what is refused before a trial starts."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import UsageError
from trainers.space import Choice, Interval, parse


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("choice(4, 6, 8)", Choice((4, 6, 8))),
        ("4,6", Choice((4, 6))),
        ("choice('gini', entropy)", Choice(("gini", "entropy"))),
        ("choice(true, false)", Choice((True, False))),
        ("choice(1, 2.5)", Choice((1, 2.5))),
        ("range(5, 11)", Interval(5, 10, step=1)),
        ("range(4, 12, 3)", Interval(4, 10, step=3)),
        ("range(3)", Interval(0, 2, step=1)),
        ("interval(0.3, 0.8)", Interval(0.3, 0.8)),
        ("tag(log, interval(0.01, 1))", Interval(0.01, 1.0, log=True)),
        ("tag(log, int, interval(15, 95))", Interval(15, 95, log=True, step=1)),
    ],
)
def test_the_grammar_is_hydras(text: str, domain: object) -> None:
    assert parse("x", text) == domain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "not a search space"),
        ("glob(*)", "not a search space"),
        ("choice()", "empty choice"),
        ("choice(a, 1)", "mixed types"),
        ("choice(true, 1)", "mixed types"),
        ("range(5, 1)", "reversed or empty"),
        ("range(1.5, 3)", "whole numbers"),
        ("range(1, 5, 0)", "steps above 0"),
        ("range(1, inf)", "whole numbers"),
        ("interval(2, 1)", "reversed"),
        ("interval(1, nan)", "finite"),
        ("interval(1, inf)", "finite"),
        ("tag(int, interval(1, 5.5))", "whole bounds"),
        ("tag(int, interval(1, inf))", "whole bounds"),
        ("tag(log, interval(0, 1))", "log scale starts above 0"),
        ("tag(log, range(1, 100, 2))", "no steps"),
        ("interval(1", "search space of x"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_the_grammar(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse("x", text)
    assert "interval(a,b)" in caught.value.allowed


DOMAINS = st.one_of(
    st.lists(st.integers(-5, 5), min_size=1, max_size=4, unique=True).map(lambda v: Choice(tuple(v))),
    st.tuples(st.integers(1, 50), st.integers(0, 50), st.integers(1, 9)).map(
        lambda t: parse("x", f"range({t[0]}, {t[0] + t[1] + 1}, {t[2]})")
    ),
    st.tuples(st.integers(1, 50), st.integers(0, 50), st.booleans()).map(lambda t: Interval(t[0], t[0] + t[1], log=t[2])),
    st.tuples(st.integers(1, 50), st.integers(0, 50)).map(lambda t: Interval(t[0], t[0] + t[1], log=True, step=1)),
)


@given(DOMAINS, st.integers(0, 99))
def test_whatever_is_suggested_lies_in_the_domain(domain: Choice | Interval, seed: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(3):
        value = domain.suggest(study.ask(), "x")
        assert domain.holds(value)
        assert isinstance(domain, Choice) or domain.step is None or isinstance(value, int)


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Choice((1, 2)), [1, 2], [3, "1"]),
        (Interval(0.1, 1.0), [0.1, 1, 0.5], [0.0, 1.1, True, "0.5", None, float("nan")]),
        (Interval(4, 10, step=3), [4, 7, 10], [5, 3, 13, 6.5]),
    ],
)
def test_a_domain_knows_its_values(domain: Choice | Interval, inside: list, outside: list) -> None:
    assert all(domain.holds(value) for value in inside)
    assert not any(domain.holds(value) for value in outside)

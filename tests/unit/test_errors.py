"""Errors for people: what, value, allowed, next; and still so when they come from another process."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from conf.errors import RaycycleError, RefusedError, UsageError, root_cause, suggest


def fail_in_another_process() -> None:
    raise UsageError("key is out of range", value=-1, allowed="1 or more", next="set key=1")


def test_the_message_says_what_value_allowed_and_next() -> None:
    error = UsageError("key is out of range", value=-1, allowed="1 or more", next="set key=1")
    assert str(error) == error.message == "key is out of range: -1\n  allowed: 1 or more\n  next:    set key=1"
    assert str(RaycycleError("broken")) == "broken"
    assert str(RaycycleError("empty", value="")) == "empty: ''"


def test_exit_codes_are_those_of_the_design() -> None:
    assert [kind("x").exit_code for kind in (RaycycleError, UsageError, RefusedError)] == [1, 2, 3]


@pytest.mark.parametrize("kind", [RaycycleError, UsageError, RefusedError])
def test_an_error_survives_pickling_with_all_its_parts(kind: type[RaycycleError]) -> None:
    error = kind("what", value=[1, "a"], allowed="b", next="c")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.what, again.value, again.allowed, again.next, str(again)) == ("what", [1, "a"], "b", "c", str(error))


def test_an_error_crosses_processes() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool, pytest.raises(UsageError, match="out of range") as caught:
        pool.submit(fail_in_another_process).result()
    assert (caught.value.value, caught.value.allowed, caught.value.next) == (-1, "1 or more", "set key=1")


def test_json_holds_plain_values_only() -> None:
    assert UsageError("x", value=3).as_json() == {"what": "x", "value": 3, "allowed": "", "next": ""}
    assert json.loads(json.dumps(UsageError("x", value={"a": object}).as_json()))["value"].startswith("{'a'")


def test_a_close_name_is_suggested_and_a_far_one_is_not() -> None:
    assert suggest("xgbost", ["xgboost", "linear"]) == " (did you mean 'xgboost'?)"
    assert suggest("forest", ["xgboost", "linear"]) == ""
    assert suggest("x", []) == ""


class FromWorker(Exception):
    """As Ray wraps an error of a worker: by an attribute `cause`."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause
        super().__init__("worker failed")


class Both(FromWorker, UsageError):
    """As Ray makes it: an error of the worker's own class that holds the original."""

    def __init__(self, cause: UsageError) -> None:
        self.cause = cause
        Exception.__init__(self, "worker failed\nTraceback ...")


def test_the_error_for_a_person_is_found_inside_what_came_back() -> None:
    said = UsageError("said")
    assert root_cause(said) is said
    assert root_cause(FromWorker(FromWorker(said))) is said
    assert root_cause(Both(said)) is said
    outer = ValueError("outer")
    outer.__cause__ = FromWorker(said)
    assert root_cause(outer) is outer.__cause__.cause  # type: ignore[union-attr]


def test_an_error_nobody_meant_for_a_person_stays_itself() -> None:
    bare = FromWorker(ValueError("deep"))
    assert root_cause(bare) is bare

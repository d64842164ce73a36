"""Ray's own readers by name: each was thought about, and none of them gets hold of code."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from conf.errors import UsageError
from tables.sources.reader import READERS, REFUSED, RayReader


def test_every_reader_of_this_ray_is_known() -> None:
    import ray.data

    there = {name.removeprefix("read_") for name in dir(ray.data) if name.startswith("read_")} - {"api"}
    assert there == set(READERS) | set(REFUSED)
    assert not set(READERS) & set(REFUSED)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reader": "parket"}, "did you mean 'parquet'"),
        ({"reader": "numpy"}, "pickled"),
        ({"reader": "read_sql"}, r"tables\.sources\.sql\.Sql"),
        ({"reader": "csv", "args": {"filesystem": "x"}}, r"args\.filesystem is refused"),
        ({"reader": "iceberg", "args": {"catalog_kwargs": {"py-io-impl": "os.system"}}}, "py-io-impl is refused"),
        ({"reader": "csv", "args": {"paths": [open]}}, "plain"),
    ],
)
def test_what_names_code_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        RayReader(**options)


def test_unknown_arguments_are_refused_before_ray_is_asked() -> None:
    with pytest.raises(UsageError, match="did you mean 'paths'"):
        RayReader(reader="csv", args={"path": "x"}).read()


def test_a_refusal_does_not_repeat_arguments() -> None:
    with pytest.raises(UsageError) as caught:
        RayReader(reader="json", args={"paths": 7, "encoding": "hunter2"}).read()
    assert "hunter2" not in caught.value.message and "hunter2" not in repr(RayReader(reader="json", args={"paths": "hunter2"}))


def test_arguments_from_hydra_become_plain() -> None:
    assert RayReader(reader="read_csv", args=OmegaConf.create({"paths": ["a"], "x": {"y": [1]}})).args == {"paths": ["a"], "x": {"y": [1]}}

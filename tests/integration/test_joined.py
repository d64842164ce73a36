"""The page about joins, as it stands: the command reads it, joins in workers, and makes the same bytes either way."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from homes import Home

from cluster.store import Store
from conf.targets import SOURCE
from tables import snapshots

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
ORDERS, CUSTOMERS = 400, 30


def page(home: Home) -> None:
    """The files that the page shows, where it says they belong."""
    for name, text in re.findall(r"`(raycycle-conf/\S+)`:\n\n```yaml\n(.*?)```", (SOURCE / "docs" / "joins.md").read_text(), re.DOTALL):
        file = home.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def data(folder: Path) -> list[dict[str, Any]]:
    """Orders as text files, customers as Parquet; some customers are in no table, and a payment may come after the next order."""
    random = np.random.default_rng(7)
    orders = []
    for number in range(ORDERS):
        ordered, days = START + dt.timedelta(minutes=int(random.integers(0, 200 * 1440))), int(random.integers(1, 60))
        paid = ordered + dt.timedelta(days=days) if random.random() < 0.8 else None
        who = f"c{random.integers(0, CUSTOMERS + 5)}"
        orders.append({"id": number, "customer": who, "ordered_at": ordered, "paid_at": paid, "days": days if paid else None})
        orders[-1] |= {"amount": float(random.normal()), "late": paid is None or days > 30}
    (folder / "orders").mkdir(parents=True)
    for part in range(4):
        pacsv.write_csv(pa.Table.from_pylist(orders[part::4]), folder / "orders" / f"{part}.csv")
    customers = {"number": [f"c{i}" for i in range(CUSTOMERS)], "city": ["Bern", "Rome"] * (CUSTOMERS // 2), "since": range(CUSTOMERS)}
    pq.write_table(pa.table(customers), folder / "customers.parquet")
    visits = pa.table(
        {"customer": [f"c{i % 20}" for i in range(90)], "minutes": random.normal(size=90) * 10.0 ** random.integers(-9, 9, 90)}
    )
    pacsv.write_csv(visits, folder / "visits.csv")
    return orders


def known_before(orders: list[dict[str, Any]], row: dict[str, Any]) -> list[int]:
    """The days of the customer's other orders that were paid in the 90 days before, in the order of payment."""
    since = row["ordered_at"] - dt.timedelta(days=90)
    paid = [o for o in orders if o["customer"] == row["customer"] and o["id"] != row["id"] and o["paid_at"]]
    return [o["days"] for o in sorted(paid, key=lambda o: o["paid_at"]) if since <= o["paid_at"] < row["ordered_at"]]


def test_the_page_runs_and_rows_are_the_same_by_broadcast_and_by_shuffle(tmp_path: Path) -> None:
    home = Home(tmp_path)
    page(home)
    orders = data(tmp_path / "data")
    words = ("run", "dataset=orders", "deploy=none", "--until", "ingest")
    home.raycycle(*words)
    home.raycycle(*words, "dataset.source.small_mib=0", "dataset.source.partitions=2", "store.root=other")
    found, shuffled = (snapshots.open_snapshot(store, "orders") for store in (home.store, Store.open(tmp_path / "other")))
    assert found.digest == shuffled.digest
    rows = {row["id"]: row for file in found.files for row in snapshots.read(file).to_pylist()}
    assert len(rows) == ORDERS
    for order in orders:
        row, days = rows[order["id"]], known_before(orders, order)
        assert (row["paid_90d"], row["last_days_90d"]) == (len(days), days[-1] if days else None), order
        assert row["mean_days_90d"] == (sum(days) / len(days) if days else None)
        number = int(order["customer"][1:])
        assert (row["city"], row["customer_since"]) == ((["Bern", "Rome"][number % 2], number) if number < CUSTOMERS else (None, None))
        assert row["visits"] == (0 if number >= 20 else 5 if number < 10 else 4)


def test_an_unknown_column_exits_2_before_ray_starts(tmp_path: Path) -> None:
    home = Home(tmp_path)
    page(home)
    data(tmp_path / "data")
    file = tmp_path / "raycycle-conf" / "dataset" / "orders.yaml"
    file.write_text(file.read_text().replace("at: ordered_at", "at: ordered_ta"))
    error = home.raycycle("run", "dataset=orders", "deploy=none", code=2)["error"]
    assert "did you mean 'ordered_at'" in error["what"]
    assert not (tmp_path / "home" / "ray").exists()

"""A driver of its own that ingests:  ingester.py ADDRESS STORE TABLES. It joins the Ray there, and says when it begins and what it made.

First the folder `one` of the store's parent replaces the table, then the folder `two` is appended to it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from cluster.progress import Progress
from cluster.session import connect
from cluster.store import Store
from conf.schema import Duplicates
from flows.ingest import ingest
from tables.contract import Column, Contract
from tables.duplicates import asked
from tables.sources.files import Files

NAME = "people"
CONTRACT = Contract(
    name=NAME,
    task="regression",
    label="y",
    columns={
        "id": Column(type="int64", role="key", nullable=False, privacy_class="internal"),
        "code": Column(type="int64", privacy_class="internal"),
        "at": Column(type="double", privacy_class="internal"),
        "word": Column(type="string", privacy_class="internal"),
        "y": Column(type="double", role="label", nullable=False),
    },
    unique=[["code"]],
    max_bad_fraction=0.7,
)
LATEST = asked(CONTRACT, Duplicates(by=["id"], time="at"))
UNIQUE = asked(CONTRACT, None)


def both(store: Store) -> Iterator[dict[str, Any]]:
    """What came of each folder."""
    for folder, write, onces in (("one", "replace", LATEST), ("two", "append", UNIQUE)):
        print("begins", folder, flush=True)
        made = ingest(NAME, Files(path=str(store.root.parent / folder)), CONTRACT, store, Progress(quiet=True), onces, write)
        yield {"digest": str(made.snapshot.digest), "duplicates": made.duplicates, "quarantined": made.quarantined}


def main(address: str, root: str, tables: str) -> None:
    store = Store.open(root, None if tables == "-" else tables)
    with connect(store, address):
        for told in both(store):
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A process of its own that appends to the table `t`:  appender.py STORE TABLES WRITER COUNT, where TABLES is "-" for the store's folder.

Row n of writer w is (w, n), in an append of its own; done again, it adds what is missing.
"""

from __future__ import annotations

import sys

import pyarrow as pa

from cluster.store import Store
from tables import snapshots

_, ROOT, TABLES, WRITER, COUNT = sys.argv
STORE = Store.open(ROOT, None if TABLES == "-" else TABLES)

for n in range(int(COUNT)):
    rows = pa.table({"writer": [int(WRITER)], "n": [n]})
    part = snapshots.write_part(snapshots.table_folder(STORE, "t"), rows)
    snapshots.commit(STORE, "t", rows.schema, [part], "append", once=f"{WRITER}-{n}")
    print(n, flush=True)

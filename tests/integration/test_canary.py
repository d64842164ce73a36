"""Values of personal columns are nowhere but in the source: every byte that runs write is searched for them, packed files unpacked.

Rows of the quarantine are kept as they came where no treatment takes their values, in a folder of their owner alone (mode 0700).
"""

from __future__ import annotations

import csv
import gzip
import random
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from homes import Home

from cluster.environment import Folders
from tables.contract import Contract

ROWS, BAD = 600, 12
# No digest, id or number that a run writes contains one by chance; nor does this file, which the record of a run holds while it is new.
EMAIL, SURNAME, NOTE, PLACE, AGE = WORDS = [f"canary{each}" for each in ("mail", "surname", "note", "place", "age")]
PHONE = f"555{142:04d}"
CLASSES = (
    "email=personal:drop",
    "phone=personal:mask,keep=2",
    "surname=personal:hash",
    "born=personal:generalise,to=month",
    "note=personal:tokenise",
    "place=secret:drop",
    "age=personal:generalise,band=10",
)
RUN = ("dataset=people", "deploy=none", "trainer=linear", "sweep.num_trials=2", "cluster.cpus=2")


def write(file: Path, bad: int) -> None:
    """A table of people; `bad` rows break the contract by a personal value, and the last row has too many fields."""
    chance = random.Random(5)
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["id", "email", "phone", "surname", "born", "age", "note", "place", "visits", "late"])
        for number in range(ROWS):
            age = chance.randrange(18, 90)
            wrong = number < bad
            row: list[Any] = [
                number,
                f"{EMAIL}{number}@example.org",
                f"+1 212 {PHONE[:3]}-{PHONE[3:]}" if number % 2 else f"+1212{PHONE}",
                f"{SURNAME}{number % 40}",
                f"{chance.randrange(1950, 2005)}-0{chance.randrange(1, 10)}-1{chance.randrange(10)}",
                f"{AGE}{number}" if wrong and number % 2 else age,
                f"please write to {NOTE}{number}@example.org about it",
                f"{PLACE} {number}",
                f"{NOTE}visits{number}" if wrong and not number % 2 else chance.randrange(50),
                int(age + chance.gauss(0, 12) > 50),
            ]
            writer.writerow([*row, f"{NOTE} too many"] if number == ROWS - 1 else row)


def contents(file: Path) -> Iterator[bytes]:
    """The bytes of a file as they lie, and as a reader of its format sees them."""
    raw = file.read_bytes()
    yield raw
    if raw[:4] == b"PAR1":
        table = pq.read_table(pa.BufferReader(raw))
        yield str([table.schema.metadata, table.to_pylist()]).encode()
    elif raw[:6] == b"ARROW1":
        yield str(pa.ipc.open_file(raw).read_all().to_pylist()).encode()
    elif raw[:2] == b"\x1f\x8b":
        yield gzip.decompress(raw)
    elif zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as packed:
            yield b"".join(packed.read(name) for name in packed.namelist())
    elif raw[:15] == b"SQLite format 3":
        with sqlite3.connect(file) as database:
            yield "\n".join(database.iterdump()).encode()


def hits(folders: list[Path], but: list[Path]) -> list[str]:
    found = []
    for file in sorted({file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()}):
        if not any(file == each or each in file.parents for each in but):
            found += [f"{file}: {word}" for content in contents(file) for word in (*WORDS, PHONE) if word.encode() in content]
    return found


def test_no_personal_value_is_written_anywhere(tmp_path: Path) -> None:
    home = Home(tmp_path)
    source = home.folder / "people.csv"
    write(source, bad=0)
    told = [home.process("init", "people.csv", "--label", "late")]
    write(source, bad=BAD)
    file = home.folder / "raycycle-conf" / "contract" / "people.yaml"
    # As a newcomer would have it: nothing is said of the columns, so ingest stops and says what to type.
    spoken = file.read_text()
    file.write_text("\n".join(line for line in spoken.splitlines() if "class:" not in line and "treatment:" not in line))
    told.append(home.process("run", *RUN, "--until", "ingest"))
    assert told[-1].returncode == 2 and "raycycle data classify people email=personal:drop" in told[-1].stderr
    assert not list(home.store.tables.rglob("*.parquet"))
    told += [home.process("data", "classify", "people", *CLASSES), home.process("run", *RUN)]
    assert told[-1].returncode in (0, 3), told[-1].stderr
    write(source, bad=ROWS // 2)
    told.append(home.process("run", *RUN))
    assert told[-1].returncode == 1 and "break the contract" in told[-1].stderr

    snapshot = pa.concat_tables(pq.read_table(part) for part in sorted(home.store.tables.rglob("part-*.parquet")))
    assert snapshot.num_rows == ROWS - BAD - 1 and {"email", "place"}.isdisjoint(snapshot.column_names)
    assert all(note.startswith("tok_") for note in snapshot["note"].to_pylist())
    assert set(Contract.load(file).columns) >= {"email", "place"}

    quarantine, vault = home.store.quarantine, home.store.root / "vault"
    assert quarantine.stat().st_mode & 0o077 == 0 and vault.stat().st_mode & 0o077 == 0
    assert hits([quarantine], []) != []  # the search sees what is there: values of a column that nothing is done to
    assert len(hits([vault], [])) >= 1
    places = [home.folder, Folders.of(home.store).short, Folders.of(home.store, private=True).short]
    assert hits(places, [source, quarantine, vault]) == []
    assert not [word for done in told for word in (*WORDS, PHONE) if word in done.stdout + done.stderr]

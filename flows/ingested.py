"""What ingest leaves behind: a snapshot, and what became of the rows that are not in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.store import Store, read_json, write_json
from ledger import digests
from tables import snapshots
from tables.snapshots import Snapshot


@dataclass(frozen=True)
class Ingested:
    """A snapshot and what was not let in: rows by broken rule (`warned` ones were kept), and how many `duplicates` were removed.

    `promises` of the contract about the whole table did not hold, and only warn: in words.
    """

    snapshot: Snapshot
    quarantined: dict[str, int] = field(default_factory=dict)
    warned: dict[str, int] = field(default_factory=dict)
    quarantine: Path | None = None
    duplicates: int = 0
    promises: dict[str, str] = field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, str]:
        return {"rows": str(self.snapshot.digest), "quarantined": digests.of_value(self.quarantined)}

    def save(self, folder: Path) -> dict[str, str]:
        snapshot = self.snapshot
        facts: dict[str, Any] = {"quarantined": self.quarantined, "warned": self.warned, "quarantine": str(self.quarantine or "")}
        facts |= {"name": snapshot.name, "version": snapshot.version, "duplicates": self.duplicates, "promises": self.promises}
        write_json(folder / "ingested.json", {"format": 1, **facts})
        return self.outputs

    @classmethod
    def load(cls, folder: Path, store: Store) -> Ingested:
        facts = read_json(folder / "ingested.json")
        snapshot = snapshots.open_snapshot(store, facts["name"], facts["version"])
        quarantine = Path(facts["quarantine"]) if facts["quarantine"] else None
        return cls(snapshot, facts["quarantined"], facts["warned"], quarantine, facts.get("duplicates", 0), facts.get("promises", {}))

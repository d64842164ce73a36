"""Time travel: a run that takes a version of its table as it lies, instead of reading the source.

$ raycycle run experiment=flights snapshot=3
"""

from __future__ import annotations

from cluster.store import Store
from conf.errors import UsageError, some
from flows.ingest import Ingested
from tables.contract import Contract


def taken(store: Store, name: str, version: int, contract: Contract) -> Ingested:
    """Version `version` of the table. Nothing is started for it.

    Raises UsageError, with the versions that can be taken, when it does not exist, was vacuumed, or is no table of this contract.
    """
    from flows.versions import versions
    from tables.snapshots import open_snapshot

    found = {each.version: each for each in versions(store, name)}
    whole = some((str(each.version) for each in found.values() if each.gone is None), 20) or "none can be read"
    next_words = f"raycycle data snapshots {name}, or leave snapshot out to read the source"
    if version not in found:
        raise UsageError(f"the table {name!r} has no such version", value=f"snapshot={version}", allowed=whole, next=next_words)
    wanted = found[version]
    if wanted.gone is not None:
        raise UsageError(f"{wanted} cannot be read any more: {wanted.gone}", value=f"snapshot={version}", allowed=whole, next=next_words)
    promised = {each.name: str(each.type) for each in contract.schema()}
    if wrong := [f"{column} ({kind})" for column, kind in promised.items() if wanted.columns.get(column) != kind]:
        raise UsageError(
            f"{wanted} lacks columns of the contract {contract.name!r}, or holds them in other types",
            value=some(wrong, 5),
            allowed=some([f"{column} ({kind})" for column, kind in wanted.columns.items()]),
            next="take a version that was made under this contract, or use the contract of then",
        )
    return Ingested(open_snapshot(store, name, version))

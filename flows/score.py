"""Score a table with a registered model: Ray schedules shards, each task streams its shard through the same encoder as training.

$ raycycle score flights august.parquet scores/
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from cluster.progress import Progress
from cluster.store import finite, publish, read_json, write_json
from conf.errors import RaycycleError, UsageError, some, suggest
from ledger import digests
from ledger.registry import Registered
from tables.casting import cast
from tables.checking import check_features
from tables.contract import Contract
from tables.privacy.keys import Keyring
from tables.privacy.methods import Drop
from tables.privacy.treatment import treat, treated_alike, treatments
from tables.rows import TableDigest, row_hashes
from tables.sources import parquet
from tables.sources.files import Files
from trainers.bundle import Bundle
from trainers.metrics import score as metrics_of

BATCH_ROWS = 65_536
MANIFEST = "_scored.json"


@dataclass(frozen=True)
class Shard:
    """A piece of the input that one task scores: some row groups of a Parquet file, or a whole file of another kind."""

    number: int
    file: str
    row_groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scored:
    """`rows` were written to `output`; `quarantined` rows lie below it in `_quarantine`, with the reason.

    `by`: metrics (and `rows`, how many) of each group, where the scores were judged.
    """

    output: Path
    rows: int
    quarantined: dict[str, int]
    by: dict[str, dict[str, float]] = field(default_factory=dict)

    def save(self, folder: Path) -> dict[str, str]:
        """Write what was counted beside the output, which lies in `folder` already."""
        facts = {"output": self.output.name, "rows": self.rows, "quarantined": self.quarantined, "by": finite(self.by)}
        write_json(folder / "scored.json", {"format": 1, **facts})
        return {"predictions": predictions_digest(self.output), "by": digests.of_value(facts["by"])}

    @classmethod
    def load(cls, folder: Path) -> Scored:
        facts = read_json(folder / "scored.json")
        by = {group: {name: float(value) for name, value in metrics.items()} for group, metrics in facts["by"].items()}
        return cls(folder / facts["output"], facts["rows"], facts["quarantined"], by)


def predictions_digest(output: Path) -> str:
    """Digest of the scored rows in any order, whatever number the model's version has."""
    total = TableDigest()
    for file in sorted(output.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches():
            table = pa.Table.from_batches([batch])
            total += TableDigest.of(table, [name for name in table.column_names if name != "model_version"])
    return str(total)


def plan_shards(source: Files) -> list[Shard]:
    """Shards in the order of files and row groups, from metadata alone."""
    shards: list[Shard] = []
    for file, kind in source.found():
        if kind == "parquet":
            parquet.parquet_schema(file)  # refuses types that carry code
            groups = pq.read_metadata(file).num_row_groups
            shards += [Shard(len(shards) + i, file, (i,)) for i in range(groups)]
        else:
            shards.append(Shard(len(shards), file))
    return shards


@functools.lru_cache(maxsize=4)
def opened(folder: str, digest: str, keyring: Keyring | None) -> Bundle:
    """The bundle, opened once in each worker process."""
    return Bundle.open(Path(folder), digest, keyring)


def score_shard(
    shard: Shard, source: Files, model: Registered, keep: list[str], draft: Path, keyring: Keyring | None
) -> tuple[int, Counter[str]]:
    """Write one shard's part; returns how many rows were scored, and how many went to quarantine by reason.

    Without a keyring the rows are those of a snapshot, treated already; else they are treated here, kept columns too.
    """
    bundle = opened(str(model.folder), model.digest, keyring)
    contract = bundle.treated if keyring is None else bundle.contract
    good, bad = 0, Counter[str]()
    writers: dict[str, pq.ParquetWriter] = {}
    try:
        for batch in _batches(shard, source):
            checked = check_features(contract, batch)
            answer = bundle.answer(bundle.scores(checked.good)) if keyring is None else bundle.predict(checked.good)
            columns = _kept(batch.filter(checked.is_good), contract, keep, keyring)
            columns |= {name: answer.column(name) for name in answer.schema.names}
            columns["model_version"] = pa.array([str(model)] * answer.num_rows, pa.string())
            _write(writers, draft / f"part-{shard.number:05d}.parquet", pa.table(columns))
            good += answer.num_rows
            wrong = checked.marked(batch)
            if wrong.num_rows:
                _write(writers, draft / "_quarantine" / f"part-{shard.number:05d}.parquet", wrong)
                bad.update(wrong.column("_reason").to_pylist())
    finally:
        for writer in writers.values():
            writer.close()
    return good, bad


def _kept(rows: pa.Table, contract: Contract, keep: list[str], keyring: Keyring | None) -> dict[str, pa.Array]:
    """The key columns that the input has, and those asked for, of the contract's types and treated where it knows them."""
    unknown = [name for name in keep if name not in rows.column_names]
    if unknown:
        raise UsageError(
            f"keep names no column of the input{suggest(unknown[0], rows.column_names)}", value=unknown[0], allowed=some(rows.column_names)
        )
    found = {}
    for name in dict.fromkeys([*contract.key, *keep]):
        if name in rows.column_names:
            column = contract.columns.get(name)
            array = rows.column(name).combine_chunks()
            found[name] = cast(array, column.type, column.formats)[0] if column else array
    if keyring is None:
        return found
    treated = treat(contract, pa.table(found), keyring)
    return dict(zip(treated.column_names, treated.columns, strict=True))


def _batches(shard: Shard, source: Files) -> Iterator[pa.Table]:
    if shard.row_groups:
        reader = pq.ParquetFile(shard.file)
        for batch in reader.iter_batches(BATCH_ROWS, row_groups=list(shard.row_groups), use_threads=False):
            yield pa.Table.from_batches([batch])
    else:
        yield from dataclasses.replace(source, path=shard.file).batches()


def _write(writers: dict[str, pq.ParquetWriter], file: Path, table: pa.Table) -> None:
    if str(file) not in writers:
        file.parent.mkdir(mode=0o700, exist_ok=True)  # of the quarantine: its rows are as they came
        writers[str(file)] = pq.ParquetWriter(file, table.schema, compression="zstd")
    writers[str(file)].write_table(table)


def score(
    model: Registered,
    source: Files,
    output: Path,
    keep: list[str],
    progress: Progress,
    max_bad_fraction: float | None = None,
    keyring: Keyring | None = None,
) -> Scored:
    """Score every row of `source` into the Parquet folder `output`, which appears whole or not at all.

    Rows as they come are treated with the keys of `keyring`; without one they are those of a snapshot, treated already.
    Raises RaycycleError when more rows break the contract than `max_bad_fraction` (by default the contract's) allows.
    """
    import ray

    contract = Contract.load(model.folder / "contract.yaml")
    if dropped := [name for name in keep if isinstance(treatments(contract).get(name), Drop)]:
        raise UsageError("keep names a column that is dropped for privacy", value=dropped[0], next="leave it out of keep")
    job = digests.of_value({"model": model.digest, "input": source.path, "keep": keep})
    _refuse_other_job(output, job)
    shards = plan_shards(source)
    with progress.stage("score") as bar, publish(output) as draft:
        task = ray.remote(score_shard)
        waiting = [task.remote(shard, source, model, keep, draft, keyring) for shard in shards]
        rows, quarantined = 0, Counter[str]()
        while waiting:
            done, waiting = ray.wait(waiting)
            for good, bad in ray.get(done):
                rows, quarantined = rows + good, quarantined + bad
                bar.advance(good + bad.total(), f"{quarantined.total():,} quarantined" if quarantined else None)
        _refuse_beyond_budget(rows, quarantined, contract.max_bad_fraction if max_bad_fraction is None else max_bad_fraction)
        counts = {"rows": rows, "quarantined": dict(quarantined.most_common())}
        write_json(draft / MANIFEST, {"format": 1, "job": job, "model": str(model), **counts})
    return Scored(output, rows, dict(quarantined.most_common()))


def _refuse_beyond_budget(rows: int, quarantined: Counter[str], allowed: float) -> None:
    bad = quarantined.total()
    if bad and bad >= allowed * (rows + bad):
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in quarantined.most_common(5))
        raise RaycycleError(
            f"{bad:,} of {rows + bad:,} rows cannot be scored: {reasons}",
            value=bad / (rows + bad),
            allowed=f"a share below {allowed}",
            next="correct the input, or give max_bad_fraction=SHARE; nothing was written",
        )


def _refuse_other_job(output: Path, job: str) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    found = read_json(output / MANIFEST).get("job") if (output / MANIFEST).is_file() else None
    if found != job:
        raise UsageError(
            "the output exists and holds something else" if found is None else "the output holds another model's or input's scores",
            value=str(output),
            allowed="a folder that does not exist, or the output of this very job",
            next="choose another OUTPUT, or remove it",
        )


def takes(model: Registered | None, contract: Contract) -> bool:
    """Whether there is a model, and its features are treated as those of a snapshot under `contract`."""
    if model is None:
        return False
    learned = Contract.load(model.folder / "contract.yaml")
    return treated_alike(learned, contract, learned.features)


def score_unseen(model: Registered, rows: Path, output: Path, keep: list[str], by: str | None, progress: Progress) -> Scored:
    """Score the Parquet folder `rows`, whose label is known, and judge the scores by the column `by`, if any; both must be in `keep`."""
    scored = score(model, Files(path=str(rows), format="parquet"), output, keep, progress)
    return scored if by is None else dataclasses.replace(scored, by=judged_by(scored, by, Bundle.open(model.folder, model.digest)))


def judged_by(scored: Scored, by: str, bundle: Bundle) -> dict[str, dict[str, float]]:
    """Metrics of scored rows whose label was kept, by the value of the column `by`."""
    label, target = bundle.contract.label, bundle.target
    table = _in_canonical_order(pyarrow.dataset.dataset(scored.output, format="parquet").to_table())
    if not {label, by} <= set(table.column_names):
        raise RaycycleError("the scores do not hold the label and the group", value=[label, by], next=f"score.keep=[{label},{by}]")
    y = target.encode(table.column(label).combine_chunks())
    if target.task == "multiclass":
        predicted = np.column_stack([np.asarray(table.column(f"score_{each}")) for each in target.classes])
    else:
        predicted = np.asarray(table.column("score" if target.task == "binary" else "prediction"))
    groups = np.array([str(value) for value in table.column(by).to_pylist()], object)
    known = np.isfinite(y)
    found = {}
    for group in sorted(set(groups)):
        rows = known & (groups == group)
        if rows.any():
            found[group] = {"rows": float(rows.sum()), **metrics_of(target.task, y[rows], predicted[rows], bundle.manifest.threshold)}
    return found


def _in_canonical_order(scores: pa.Table) -> pa.Table:
    """Parts come in an order of chance, and a mean of floats hangs on the order in which they are added up."""
    content = [name for name in scores.column_names if name != "model_version"]
    return scores.take(pa.array(np.argsort(row_hashes(scores, content), kind="stable")))

"""A full disk under every kind of write: told with path and bytes, nothing half visible, and with space again the same result."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chaos.experiment import Command, Experiment, nothing_half_done
from numpy.typing import NDArray

from cluster.store import Store, publish, read_json, write_json
from conf.errors import RaycycleError
from flows import certificate
from flows.certificate import BIT_EXACT, Certificate, StageComparison
from flows.prepared import Rows, _save_rows
from flows.sweep import FinishedTrials
from flows.trial import Proposal, Trial, failed_trial
from ledger import digests
from ledger.spool import SpoolFile
from ledger.spool import read as entries_of
from ledger.stages import Cause, Kept, StageCache
from tables import snapshots
from tables.contract import Column, Contract
from tables.encoder import Encoder
from tables.sketches import sketch
from tables.target import Target, label_sketch
from trainers import bundle
from trainers.linear import Linear, LinearParams
from trainers.protocol import Context, Matrix

PAGE = 4096  # a page that a file has already can be filled whether or not the disk is full


@dataclass(frozen=True)
class Disk:
    """A file system of its own; `ballast` is the file that fills it."""

    store: Store

    @property
    def ballast(self) -> Path:
        return self.store.root.parent / "ballast"

    def fill(self, but: int = 0) -> None:
        """Take all space, but for `but` bytes."""
        with self.ballast.open("ab", buffering=0) as out, contextlib.suppress(OSError):
            while True:
                out.write(b"\0" * PAGE)
        if but:
            os.truncate(self.ballast, max(0, self.ballast.stat().st_size - but))

    def free(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    size = getattr(request, "param", "4m")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        reason = f"no file system can be mounted here: {done.stderr.strip()}"
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield Disk(Store.open(folder / "store"))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def refused(disk: Disk, write: Callable[[], Any], names: Path | str, but: int = 0) -> RaycycleError:
    """The error of `write` on the full disk: it names the path, and how many bytes."""
    disk.fill(but)
    with pytest.raises(RaycycleError) as caught:
        write()
    disk.free()
    assert caught.value.exit_code == 1
    said = re.sub(r"/\.([^/]+)\.[a-z0-9_]{8}(?=[/'])", r"/\1", caught.value.message)  # a draft is named by what it becomes
    assert str(names) in said
    assert re.search(r"\d+ bytes|[Nn]o space left|full", caught.value.message)
    return caught.value


def everything(folder: Path) -> dict[str, str]:
    return digests.of_folder(folder)


def test_a_record_stays_what_it_was(disk: Disk) -> None:
    file = disk.store.runs / "1" / "record.json"
    write_json(file, {"stages": ["ingest"]})
    before, later = everything(file.parent), {"stages": ["ingest", "prepare" * PAGE]}
    error = refused(disk, lambda: write_json(file, later), file)
    assert int(re.search(r"(\d+) bytes", error.what)[1]) > len("prepare") * PAGE  # type: ignore[index]
    assert everything(file.parent) == before
    assert write_json(file, later).stat().st_size > PAGE


def test_a_spool_goes_on_after_the_line_that_did_not_fit(disk: Disk) -> None:
    spool = SpoolFile.create(disk.store, "1")
    spool.append({"op": "start"})
    refused(disk, lambda: spool.append({"op": "log", "text": "x" * 3 * PAGE}), spool.path)
    assert [entry["op"] for entry in entries_of(spool.path)] == ["owner", "start"]
    spool.append({"op": "log", "text": "x" * 3 * PAGE})
    assert [entry["op"] for entry in entries_of(spool.path)] == ["owner", "start", "log"]


def test_a_part_of_a_snapshot_leaves_no_file(disk: Disk) -> None:
    folder, rows = snapshots.table_folder(disk.store, "t"), _rows(2_000)
    first = snapshots.commit(disk.store, "t", rows.schema, [snapshots.write_part(folder, rows.slice(0, 9))])
    before = everything(folder)
    error = refused(disk, lambda: snapshots.write_part(folder, rows), folder, but=PAGE)
    assert "bytes were written, " in error.what
    assert everything(folder) == before
    assert snapshots.open_snapshot(disk.store, "t") == first
    again = snapshots.commit(disk.store, "t", rows.schema, [snapshots.write_part(folder, rows)])
    assert (again.version, again.rows) == (1, 2_000)


def test_a_commit_that_does_not_fit_leaves_the_version_before(disk: Disk) -> None:
    folder, rows = snapshots.table_folder(disk.store, "t"), _rows(900)
    first = snapshots.commit(disk.store, "t", rows.schema, [snapshots.write_part(folder, rows.slice(0, 9))])
    parts = [snapshots.write_part(folder, rows)]
    before = everything(folder)
    refused(disk, lambda: snapshots.commit(disk.store, "t", rows.schema, parts), folder)
    assert everything(folder) == before
    assert snapshots.open_snapshot(disk.store, "t") == first
    assert snapshots.commit(disk.store, "t", rows.schema, parts).version == 1


def _rows(count: int) -> pa.Table:
    random = np.random.default_rng(0)
    numbers = random.normal(size=(2, count))
    labels = np.where(numbers[0] > 0, "yes", "no").tolist()
    return pa.table({"n": numbers[0], "m": numbers[1], "y": pa.array(labels)})


CAUSE = Cause(stage="prepare", modules={}, libraries={}, config={}, inputs={})


def _kept(store: Store, make: Callable[[Path], dict[str, str]], before_record: Callable[[], None] = lambda: None) -> Kept:
    cache = StageCache(store, "t", print)
    with cache.making(CAUSE) as lease, cache.publishing(CAUSE, lease, "1") as draft:
        draft.outputs |= make(draft.folder)
        before_record()
    return cache.made(CAUSE).verified()


def _nothing_kept(store: Store) -> None:
    cache = StageCache(store, "t", print)
    assert cache.find(CAUSE) is None
    assert list(cache.folder(CAUSE).parent.iterdir()) == []


def test_the_matrices_of_prepare(disk: Disk) -> None:
    x: NDArray[np.float32] = np.ones((20_000, 4), np.float32)
    part = Rows(Matrix(x, np.ones(20_000), ()), np.arange(20_000, dtype=np.uint64), pa.table({}))

    def make(folder: Path) -> dict[str, str]:
        _save_rows(part, folder / "train")
        return {"train": part.digest}

    folder = StageCache(disk.store, "t", print).folder(CAUSE)
    error = refused(disk, lambda: _kept(disk.store, make), folder, but=50 * PAGE)
    assert int(re.search(r"(\d+) bytes were written", error.what)[1]) > 0  # type: ignore[index]
    _nothing_kept(disk.store)
    assert _kept(disk.store, make).record.outputs == {"train": part.digest}


def test_the_record_of_a_stage(disk: Disk) -> None:
    def make(folder: Path) -> dict[str, str]:
        (folder / "result.txt").write_text("1")
        return {"result": "1"}

    refused(disk, lambda: _kept(disk.store, make, disk.fill), "stage.json", but=20 * PAGE)
    _nothing_kept(disk.store)
    assert _kept(disk.store, make).record.outputs == {"result": "1"}


def _trial(number: int, reason: str) -> Trial:
    return failed_trial(Proposal(number, "linear", {}, False), reason)


def test_the_trials_of_a_sweep(disk: Disk) -> None:
    file = disk.store.root / "trials.jsonl"
    finished = FinishedTrials(file)
    finished.add(_trial(0, "short"))
    refused(disk, lambda: finished.add(_trial(1, "long" * PAGE)), file)
    assert list(FinishedTrials(file).trials) == [0]
    finished.add(_trial(1, "long" * PAGE))
    assert list(FinishedTrials(file).trials) == [0, 1]


@pytest.mark.parametrize("but", [0, 1, 2, 4, 6], ids=lambda pages: f"after {pages} pages")
def test_a_bundle(disk: Disk, but: int) -> None:
    target = disk.store.root / "model"
    refused(disk, lambda: _bundle(target), target, but * PAGE)
    assert sorted(path.name for path in disk.store.root.iterdir()) == ["format.json"]
    assert bundle.Bundle.open(target, _bundle(target)).check_golden() is None
    assert _bundle(disk.store.root / "again") == digests.of_file(target / "bundle.json")


def _bundle(folder: Path) -> str:
    rows = _rows(400)
    columns = {"n": Column(type="double"), "m": Column(type="double"), "y": Column(type="string", role="label", nullable=False)}
    contract = Contract(name="t", task="binary", label="y", columns=columns, positive="yes")  # type: ignore[arg-type]
    reference = {name: sketch(rows[name].combine_chunks()) for name in contract.features}
    encoder = Encoder.fit(contract, reference, time_column=None, max_levels=9, min_rows=1)
    target = Target.of(contract, label_sketch(contract, rows["y"].combine_chunks()))
    matrix = Matrix(encoder.encode(rows), target.encode(rows["y"].combine_chunks()), encoder.features)
    fitted = Linear().fit(matrix, None, LinearParams(), Context(task="binary", num_classes=2, seed=0, threads=1))
    with publish(folder) as draft:
        return bundle.write(
            draft,
            name="t",
            trainer="trainers.linear.Linear",
            family="linear",
            params={},
            contract=contract,
            encoder=encoder,
            fitted=fitted,
            target=target,
            threshold=0.5,
            golden=rows.slice(0, 32),
            reference=reference,
        )


def test_a_certificate_is_whole_or_refused(disk: Disk, tmp_path: Path) -> None:
    stage = StageComparison(stage="ingest", equal=True, recorded={"rows": "1"}, replayed={"rows": "1"}, seconds=1.0, exactness=BIT_EXACT)
    made = Certificate(
        run_id="1",
        verdict="equal",
        made="2026-01-01T00:00:00+00:00",
        by="somebody",
        code={"commit": None, "changed_files": []},
        environment={"lock_digest": None, "differences": []},
        snapshot={"name": "t", "version": 0, "digest": "1"},
        stages=(stage,),
        first_difference=None,
        until="ingest",
        record_digest="1",
    )
    whole = tmp_path / "whole"
    certificate.write(made, disk.store, whole)
    folder = disk.store.runs / "1"
    refused(disk, lambda: certificate.write(made, disk.store, folder), folder, but=PAGE)
    with pytest.raises(RaycycleError):
        certificate.read(folder, disk.store)
    certificate.write(made, disk.store, folder)
    assert everything(folder) == everything(whole)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("disk", ["64m"], indirect=True)
def test_a_command_fails_in_words_and_the_same_one_succeeds_with_space(disk: Disk, tmp_path: Path) -> None:
    experiment = Experiment.make(tmp_path / "home")
    experiment.run(disk.store, "--until", "ingest")
    before = everything(disk.store.root / "cache" / "stages") | everything(disk.store.tables)
    disk.fill(but=60 * 1024)
    command = experiment.start(disk.store, "--until", "prepare")
    assert command.finish() == 1, command.said
    assert str(disk.store.root) in command.said
    assert re.search(r"\d+ bytes|[Nn]o space left|full", command.said)
    assert "Traceback" not in command.said
    disk.free()
    assert everything(disk.store.root / "cache" / "stages") | everything(disk.store.tables) == before
    command = experiment.run(disk.store, "--until", "prepare")
    with experiment.store("other") as other:
        there = experiment.run(other, "--until", "prepare")
        assert [each["outputs"] for each in _stages(command, disk.store)] == [each["outputs"] for each in _stages(there, other)]
    nothing_half_done(disk.store)


def _stages(command: Command, store: Store) -> list[dict[str, Any]]:
    return list(read_json(store.runs / command.answer()["run_id"] / "record.json")["stages"])

"""What docs/reproduce.md says to type is run beside a certificate and does what it says; a forgery fails by the same words."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.store import Store, write_json
from flows.certificate import BIT_EXACT, Certificate, Code, Difference, Environment, SnapshotName, StageComparison, write
from ledger import keys
from ledger.digests import of_file, of_folder

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```\n(?:\n```text\n(.*?)```)?", PAGE, re.DOTALL)
VERIFY, CHANGED, KEY, KEY_ID, READ, RECORD, FILES, NAMED = [script for script, _ in BLOCKS]


def made_up(folder: Path, verdict: str = "equal") -> Certificate:
    """A comparison of the record and the bundle in `folder`, where the replay of a `different` one gave another model."""
    files = {path: digest for path, digest in of_folder(folder / "bundle").items() if path.startswith("model/")}
    replayed = files if verdict == "equal" else {**files, "model/model.ubj": "f" * 64}
    stages = (
        StageComparison("ingest", True, {"snapshot": "rows1:2:ab"}, {"snapshot": "rows1:2:ab"}, 0.5, BIT_EXACT),
        StageComparison("evaluate", verdict == "equal", files, replayed, 2.0, BIT_EXACT),
    )
    return Certificate(
        run_id="2c05415b99ef45d0a7608ecaa0ea414b",
        verdict="equal" if verdict == "equal" else "different",
        made="2026-11-24T17:12:25+00:00",
        by="auditor ü",
        code=Code(commit="68001dc5" * 5, changed_files=[]),
        environment=Environment(lock_digest="ab" * 32, differences=[]),
        snapshot=SnapshotName(name="flights", version=0, digest="rows1:2:ab"),
        stages=stages,
        first_difference=None if verdict == "equal" else Difference("evaluate", "predictions", None, {"flight": 12}, 0.5, float("nan")),
        until="evaluate",
        record_digest=of_file(folder / "record.json"),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the page tells the auditor to put together, without the certificate."""
    if shutil.which("openssl") is None and os.environ.get("CI") != "true":
        pytest.skip("openssl is not installed (where CI=true this fails instead)")
    made = tmp_path / "audit of a run"
    write_json(made / "record.json", {"format": 1, "run_id": "2c05415b99ef45d0a7608ecaa0ea414b"})
    for path in ("model/model.ubj", "model/model.json", "encoder/encoder.json", "contract.yaml"):
        file = made / "bundle" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode() * 100)
    write_json(made / "bundle" / "bundle.json", {"format": 1, "files": of_folder(made / "bundle")})
    return made


@pytest.fixture
def audited(folder: Path, store: Store) -> Path:
    write(made_up(folder), store, folder)
    return folder


def typed(script: str, folder: Path) -> tuple[int, str]:
    """The exit status of a block of the page in a shell of its own, and all that it prints."""
    env = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "LC_ALL": "C"}
    done = subprocess.run(
        ["bash", "-eu", "-c", script], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    return done.returncode, done.stdout


def missing(output: str, wanted: str) -> list[str]:
    """Lines that the page shows, where `...` is anything, and that did not come out in this order."""
    lines = iter(output.splitlines())
    patterns = [re.escape(line).replace(re.escape("..."), ".*") for line in wanted.splitlines()]
    return [pattern for pattern in patterns if not any(re.fullmatch(pattern, line) for line in lines)]


@pytest.mark.parametrize(("script", "wanted"), BLOCKS, ids=range(1, len(BLOCKS) + 1))
def test_every_block_of_the_page_does_what_it_says(audited: Path, script: str, wanted: str) -> None:
    before = of_folder(audited)
    status, output = typed(script, audited)
    assert status == 0, output
    assert missing(output, wanted) == [], output
    assert of_folder(audited) == before


def test_the_blocks_tell_of_a_different_run_too(folder: Path, store: Store) -> None:
    write(made_up(folder, "different"), store, folder)
    assert typed(VERIFY, folder)[0] == 0
    status, output = typed(READ, folder)
    assert status == 0
    assert missing(output, "format 1 verdict different until 'evaluate'\n'ingest' equal 'bit-exact' same digests") == []
    assert "'evaluate' different 'bit-exact' digests differ" in output and '"replayed": "NaN"' in output
    _, output = typed(NAMED, folder)
    assert "model/model.json is recorded and replayed in 'evaluate'\nmodel/model.ubj is recorded in 'evaluate'\n" in output


def test_the_read_and_named_values_are_the_certificates_own(audited: Path, store: Store) -> None:
    name = keys.key_id(keys.public_key(store))
    assert typed(KEY_ID, audited) == (0, f"{name}\n")
    assert typed(KEY, audited)[1].startswith(name)
    status, output = typed(FILES, audited)
    assert status == 0 and output.count(": OK\n") == 4
    assert typed(NAMED, audited)[1].count(" is recorded and replayed in 'evaluate'") == 2


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def other_key(folder: Path) -> None:
    other = Store.open(folder.parent / "other")
    (folder / "certificate.pub.pem").write_bytes(keys.public_key(other))


@pytest.mark.parametrize(
    ("forge", "script", "said"),
    [
        (lambda folder: flip(folder / "certificate.json"), VERIFY, "Signature Verification Failure"),
        (lambda folder: flip(folder / "certificate.sig"), VERIFY, "Signature Verification Failure"),
        (other_key, VERIFY, "Signature Verification Failure"),
        (lambda folder: flip(folder / "record.json"), RECORD, "record.json: FAILED"),
        (lambda folder: flip(folder / "bundle" / "model" / "model.ubj"), FILES, "model/model.ubj: FAILED"),
        (lambda folder: (folder / "bundle" / "contract.yaml").unlink(), FILES, "contract.yaml: FAILED open or read"),
    ],
    ids=["json", "signature", "key", "record", "model", "missing"],
)
def test_a_forgery_fails_by_the_same_words(audited: Path, forge: Callable[[Path], None], script: str, said: str) -> None:
    forge(audited)
    status, output = typed(script, audited)
    assert status == 1
    assert said in output


def test_the_changed_byte_of_the_page_is_really_seen(audited: Path) -> None:
    """The negative step must not say failure for another reason, such as a missing file."""
    unchanged = CHANGED.replace("sed '1s/{/[/'", "cat")
    assert "Signature Verified Successfully" in typed(unchanged, audited)[1]
    assert "exit status" not in typed(unchanged, audited)[1]


def test_the_page_explains_every_field_and_no_other() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert {field.name for field in dataclasses.fields(Certificate)} == named
    told = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    for kind in (StageComparison, Difference):
        assert [field.name for field in dataclasses.fields(kind) if f"`{field.name}`" not in told] == []
    parts = (*Code.__annotations__, *Environment.__annotations__, *SnapshotName.__annotations__)
    assert [name for name in parts if f"`{name}`" not in told] == []


def test_the_page_has_one_place_for_the_digests_and_uses_public_tools_alone() -> None:
    assert PAGE.count("<!-- digests -->") == 1 and PAGE.index("<!-- digests -->") < PAGE.index("<!-- /digests -->")
    scripts = "".join(script for script, _ in BLOCKS)
    assert not re.search(r"\b(raycycle|jq|curl|pip)\b", scripts)
    imported = set(re.findall(r"import (\w+)", scripts))
    assert imported <= set(sys.stdlib_module_names)

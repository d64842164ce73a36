"""What README says to type is what the command line understands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conf.compose import compose
from flows.cli import app
from flows.plan import plan

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line.split("#")[0])
    for block in re.findall(r"```\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.startswith("raycycle ")
]
RUNS = [words[2:] for words in COMMANDS if words[1] == "run"]


@pytest.mark.parametrize("words", [words for words in RUNS if not words[0].startswith("dataset=")], ids=" ".join)
def test_every_run_in_the_readme_is_a_valid_plan(words: list[str]) -> None:
    planned = plan(compose([word.replace("HOST:PORT", "localhost:1") for word in words]))
    assert planned.until == "report"


def test_every_word_in_the_readme_exists() -> None:
    listed = set(re.findall(r"`raycycle (\w+)", README)) | {words[1] for words in COMMANDS}
    help_text = CliRunner().invoke(app, ["--help"]).output
    assert listed
    assert [word for word in sorted(listed) if not re.search(rf"^  {word} ", help_text, re.M)] == []


def test_init_then_run_as_the_readme_says(tmp_path: Path) -> None:
    rows = "".join(f"{i},{20 + i % 50},{'basic' if i % 3 else 'plus'},{'yes' if (i * 7) % 5 == 0 else 'no'}\n" for i in range(400))
    (tmp_path / "churn.csv").write_text("customer,age,plan,churned\n" + rows)
    words = next(words for words in COMMANDS if words[1] == "init")
    raycycle = Path(sys.executable).with_name("raycycle")
    done = subprocess.run([raycycle, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    planned = plan(compose(["dataset=churn"], config_dir=tmp_path / "raycycle-conf"))
    assert planned.contract.task == "binary"
    assert "raycycle run dataset=churn" in done.stdout


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    heavy = ("ray", "mlflow", "torch", "pandas", "xgboost", "pyarrow", "hydra")
    code = f"import sys; from flows.cli import app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_tree_in_the_readme_is_the_tree() -> None:
    for room in re.findall(r"^(\w+)/ ", README, re.M):
        assert (ROOT / room).is_dir(), room

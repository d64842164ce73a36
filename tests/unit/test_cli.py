"""The command line where nothing has to run: usage errors, exit codes, and the JSON that scripts rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from conf.errors import RaycycleError, RefusedError, UsageError
from flows.answer import answering
from flows.cli import app

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYCYCLE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def call(*words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the object on the last line of standard output, and standard error."""
    result = CliRunner().invoke(app, [*words, "--json"])
    lines = result.stdout.splitlines()
    assert len(lines) == 1, "standard output holds the object and nothing else"
    found = json.loads(lines[-1])
    assert {"verb", "ok", "exit_code", "run_id", "seconds"} <= found.keys()
    assert found["ok"] is (result.exit_code == 0)
    assert found["exit_code"] == result.exit_code
    return result.exit_code, found, result.stderr


@pytest.mark.parametrize(
    ("words", "value", "hint"),
    [
        (["run", "experiment=flights", "trainer=xgbost"], "xgbost", "did you mean 'xgboost'"),
        (["run", "experiment=flights", "sweep.num_trails=3"], "sweep.num_trails=3", "sweep.num_trials"),
        (["run", "experiment=flights", "sweep.num_trials=-1"], -1, "1 or more"),
        (["run", "experiment=flights", "trainer=xgboost", "trainer.resources.cpu=99"], 99, "at most"),
        (["run", "experiment=flights", "--until", "nowhere"], "nowhere", "ingest, prepare"),
        (["run", "dataset=fligths"], "fligths", "did you mean 'flights'"),
        (["run", "experiment=flights", "--config-dir", "nowhere"], "nowhere", "folder"),
        (["sweep", "experiment=flights", "search.sampler=guess"], "guess", "tpe, random"),
        (["run", "experiment=flights", "trainer=xgboost", "trainer.max_depth=deep"], "deep", "whole number"),
        (["run", "experiment=flights", "dataset.split.valid_from=June"], None, "int64"),
        (["deploy", "flights", "newest"], "newest", "model list"),
        (["report", "nothing"], "nothing", "none yet"),
        (["init", "nowhere.csv", "--label", "y"], None, "nowhere.csv"),
        (["score", "flights", "nowhere.parquet", "out"], None, "nowhere.parquet"),
        (["up", "serve.port=80"], 80, "1024"),
    ],
)
def test_wrong_usage_ends_with_two_and_says_what_is_allowed(home: Path, words: list[str], value: object, hint: str) -> None:
    code, found, said = call(*words)
    assert code == 2
    assert found["verb"] == words[0]
    assert found["error"].keys() == {"what", "value", "allowed", "next"}
    assert value is None or found["error"]["value"] == value
    assert hint in json.dumps(found["error"], ensure_ascii=False)
    assert said.startswith("error: ")
    assert "Traceback" not in said


def test_wrong_usage_makes_no_store(home: Path) -> None:
    call("run", "experiment=flights", "trainer=xgbost")
    assert not home.exists()


def test_a_store_that_cannot_be_made_is_wrong_usage(tmp_path: Path, home: Path) -> None:
    (tmp_path / "file").write_text("")
    code, found, _ = call("status", f"store.root={tmp_path / 'file'}")
    assert code == 2
    assert "RAYCYCLE_HOME" in found["error"]["next"]


def test_nothing_up_is_said_and_no_error(home: Path) -> None:
    code, found, said = call("status")
    assert (code, found["verb"], found["models"], said) == (0, "status", None, "down\n")
    assert call("down")[1]["processes_ended"] == 0


def test_without_json_the_lines_go_to_standard_output(home: Path) -> None:
    result = CliRunner().invoke(app, ["down"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "nothing was up\n", "")
    wrong = CliRunner().invoke(app, ["run", "experiment=flights", "sweep.num_trials=0"])
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert wrong.stderr.splitlines()[0] == "error: sweep.num_trials is out of range: 0"


@pytest.mark.parametrize("words", [["rnu"], ["run", "--untill", "x"], ["score", "flights"], ["init", "x.csv"]])
def test_words_that_are_no_command_end_with_two(home: Path, words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "Usage" in result.stderr


def test_init_tells_scripts_what_it_wrote(home: Path, tmp_path: Path) -> None:
    rows = "\n".join(f"{i % 7},{'ab'[i % 2]},{'yes' if i % 3 else 'no'}" for i in range(300))
    (tmp_path / "t.csv").write_text(f"x,c,y\n{rows}\n")
    code, found, _ = call("init", "t.csv", "--label", "y")
    assert code == 0
    assert found["verb"] == "init"
    written = [Path(value) for value in found.values() if isinstance(value, str) and value.endswith(".yaml")]
    assert len(written) == 2
    assert all(file.is_file() for file in written)


def end(raised: BaseException | None, capsys: pytest.CaptureFixture[str], **fields: Any) -> tuple[int, dict[str, Any], str]:
    with pytest.raises(typer.Exit) as caught, answering("verb", True) as answer:
        answer.fields |= fields
        answer.lines = ["a line"]
        if isinstance(raised, RefusedError):
            answer.refused = raised
        elif raised:
            raise raised
    out, err = capsys.readouterr()
    return caught.value.exit_code, json.loads(out.splitlines()[-1]), err


@pytest.mark.parametrize(
    ("raised", "code", "word"),
    [
        (None, 0, ""),
        (RaycycleError("broke"), 1, "error: broke"),
        (UsageError("wrong"), 2, "error: wrong"),
        (RefusedError("no"), 3, "refused: no"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (ZeroDivisionError("by zero"), 1, "error: ZeroDivisionError: by zero"),
    ],
)
def test_exit_codes_are_those_of_the_design(raised: BaseException | None, code: int, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    found_code, found, err = end(raised, capsys, run_id="r1", seconds={"ingest": 1.0}, made=Path("x"))
    assert (found_code, found["exit_code"], found["ok"]) == (code, code, code == 0)
    assert found["run_id"] == "r1"
    assert found["made"] == "x"
    assert found["seconds"].keys() == {"ingest", "total"}
    assert word in err
    assert ("error" in found) is (code != 0)
    assert "a line" in err, "with --json a person's lines go to standard error"


def test_an_error_nobody_foresaw_is_one_line_and_its_story_a_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cluster.store import Store

    with pytest.raises(typer.Exit), answering("verb", False) as answer:
        answer.store = Store.open(home)
        raise KeyError("deep\ninside")
    err = capsys.readouterr().err
    (story,) = (home / "logs").iterdir()
    assert "Traceback" not in err
    assert str(story) in err
    assert "Traceback" in story.read_text()


def test_help_names_the_words_and_loads_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['raycycle', '--help']\nfrom flows.cli import app\ntry: app()\nexcept SystemExit: pass\n"
    heavy = "print([name for name in ('ray', 'mlflow', 'torch', 'pandas', 'pyarrow', 'numpy', 'xgboost', 'hydra') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + heavy], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(
        f"\n  {word}" in done.stdout for word in ("init", "run", "sweep", "score", "deploy", "up", "down", "status", "report", "model")
    )

"""What every verb of the command line shares: its options, and how it answers a person or a script."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conf.errors import RaycycleError, RefusedError, root_cause

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.store import Store
    from conf.compose import Composed
    from conf.schema import PlatformConfig

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as trainer=xgboost sweep.num_trials=50")]
Settings = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as store.root=FOLDER serve.port=8001")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]
ConfigDir = Annotated[Path | None, typer.Option("--config-dir", help="Your own tree of configuration groups.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]


class Answer:
    """What a verb tells: fields for scripts, lines for a person."""

    def __init__(self, verb: str) -> None:
        self.fields: dict[str, Any] = {"verb": verb}
        self.lines: list[str] = []
        self.refused: RefusedError | None = None
        self.store: Store | None = None
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def open_platform(self, overrides: list[str] | None) -> tuple[Composed[PlatformConfig], Store]:
        """The configuration of the words about the platform, and its store."""
        from cluster.store import Store
        from conf.compose import compose

        composed = compose(overrides or [], root="platform")
        self.store = Store.open(composed.config.store.root, composed.config.store.tables)
        return composed, self.store

    def open_store(self, overrides: list[str] | None) -> Store:
        """The store, without the half second that composing takes where nothing was told that could name another."""
        from cluster.store import Store

        if overrides or any(Path("raycycle-conf", name).exists() for name in ("store", "platform.yaml")):
            return self.open_platform(overrides)[1]
        self.store = Store.open()
        return self.store


@contextlib.contextmanager
def answering(verb: str, as_json: bool) -> Iterator[Answer]:
    """Run a verb and end the process with its exit code: 0 done, 1 failed, 2 wrong usage, 3 refused, 130 interrupted."""
    answer = Answer(verb)
    error: RaycycleError | None = None
    code = 0
    try:
        yield answer
        error = answer.refused
    except KeyboardInterrupt:
        error, code = RaycycleError("interrupted", next="the same command goes on from what is finished; nothing half done is visible"), 130
    except Exception as raised:
        error = _for_a_person(root_cause(raised), answer.store)
    from cluster.store import finite

    code = code or (error.exit_code if error else 0)
    for line in answer.lines:
        print(line, file=sys.stderr if as_json else sys.stdout)
    if error is not None:
        print(f"{'refused' if code == 3 else 'error'}: {error.message}", file=sys.stderr)
    if as_json:
        seconds = answer.fields.pop("seconds", {}) | {"total": answer.seconds}
        fields = {**answer.fields, "ok": code == 0, "exit_code": code, "run_id": answer.fields.get("run_id"), "seconds": seconds}
        print(json.dumps(finite(fields | ({"error": error.as_json()} if error else {}), lambda number: None), default=str))
    sys.stdout.flush()
    raise typer.Exit(code)


def _for_a_person(raised: BaseException, store: Store | None) -> RaycycleError:
    """An error nobody foresaw becomes one line; its traceback goes to a file."""
    if isinstance(raised, RaycycleError):
        return raised
    from tables.privacy.detection import masked

    inner = getattr(raised, "cause", None)  # Ray wraps what a worker raised in its own words and colours
    blamed = inner if isinstance(inner, BaseException) else raised
    # A library's message may quote a row.
    said = masked(": ".join([type(blamed).__name__, *str(blamed).strip().splitlines()[:1]]))
    full = masked("".join(traceback.format_exception(raised)))
    if store is None:
        print(full, file=sys.stderr)
        return RaycycleError(said)
    file = store.folder("logs") / f"error-{time.strftime('%Y%m%d-%H%M%S')}.txt"
    file.write_text(full, encoding="utf-8")
    return RaycycleError(said, next=f"the full story is in {file}")


def progress(quiet: bool) -> Progress:
    from cluster.progress import Progress

    return Progress(quiet=quiet)

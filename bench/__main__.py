"""Run one benchmark: say its figures, write what it publishes, and print everything as one JSON object with --json.

python -m bench any_table [TABLE ...] [--json]
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import bench
from bench.machine import describe


class Benchmark(Protocol):
    """What a module of this package offers. A `result` is plain JSON and has `ratios`: above 1 where raycycle does better.

    `measure` takes the names of the parts to measure (none: all of them) and a place to say how it goes; `publish` writes files.
    """

    def measure(self, parts: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]: ...
    def publish(self, result: dict[str, Any]) -> list[Path]: ...


def names() -> list[str]:
    """Modules that offer a benchmark; those without `measure` only help others."""
    found = [module.name for module in pkgutil.iter_modules(bench.__path__) if not module.name.startswith("_")]
    return [name for name in found if hasattr(importlib.import_module(f"bench.{name}"), "measure")]


def run(name: str, benchmark: Benchmark, parts: Sequence[str], *, as_json: bool) -> None:
    """Progress goes to standard error, so that standard output holds the answer alone."""
    result = {"benchmark": name, "machine": describe(), **benchmark.measure(parts, lambda line: print(line, file=sys.stderr, flush=True))}
    written = [str(path) for path in benchmark.publish(result)]
    if as_json:
        print(json.dumps({**result, "written": written}, ensure_ascii=False))
        return
    for part, ratio in result["ratios"].items():
        print(f"{part:<16} {ratio:.3f}")
    print(f"ratios above 1: raycycle does better. wrote {', '.join(written) or 'nothing'}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure raycycle against plain tools.")
    parser.add_argument("name", choices=names(), help="the benchmark")
    parser.add_argument("parts", nargs="*", help="parts of it, all of them if none is named")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    asked = parser.parse_args(arguments)
    run(asked.name, importlib.import_module(f"bench.{asked.name}"), asked.parts, as_json=asked.json)


if __name__ == "__main__":
    main()

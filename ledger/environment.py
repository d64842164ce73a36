"""Where and with what a run was made: code, libraries, machine, person, command. Nothing here is a secret, and nothing is changed."""

from __future__ import annotations

import functools
import getpass
import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from conf.errors import some
from ledger.digests import lock_digest
from ledger.redaction import FORMATS, REDACTED, SECRET_NAME, URL_PASSWORD

# These decide how many threads a sum is split over, and so its last bits.
THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MKL_DYNAMIC", "BLIS_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "ARROW_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"),
)
_INSTALLED = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(-py[\d.]+)?\.(dist|egg)-info")
_PAIR = re.compile(r"(([\w.\-]+)[\"']?[:=][ ]*)([^\s,{}\[\]<>/]+)")  # inside an override such as `store={user:a,password:b}`


def environment() -> dict[str, Any]:
    """JSON-ready facts: lock digest, distributions, Python, system, processors, memory, thread variables, who, the command, the process."""
    return {
        "lock_digest": lock_digest(),
        "distributions": installed(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "who": f"{_user()}@{platform.node()}",
        "command": without_secrets(sys.argv),
        "process": process(),
    }


def process() -> dict[str, Any]:
    """Who this process is on this host, in a way that no later process with its number can be taken for it."""
    return {"pid": os.getpid(), "created": psutil.Process().create_time(), "host": socket.gethostname()}


def compare(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences that can change results, in words; an empty list when there is none. What an old record lacks is not compared."""
    facts = {
        "lock_digest": "lock file",
        "implementation": "Python implementation",
        "python": "Python",
        "machine": "machine",
        "processor": "processor",
    }
    pairs = [(words, recorded.get(fact), now.get(fact)) for fact, words in facts.items()]
    told = [f"{words} {_short(old)} -> {_short(new)}" for words, old, new in pairs if old != new and old is not None]
    old, new = ({canonical(name): version for name, version in side.get("distributions", {}).items()} for side in (recorded, now))
    differing = [
        f"{name} {old.get(name, 'not installed')} -> {new.get(name, 'not installed')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if old and differing:
        told.append(f"libraries: {some(differing, 10)}")
    threads = [dict(side.get("threads") or {}) for side in (recorded, now)]
    if "threads" in recorded and threads[0] != threads[1]:
        told.append(f"thread variables {_listed(threads[0])} -> {_listed(threads[1])}")
    return told


def canonical(name: str) -> str:
    """The one spelling of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """`{distribution: version}`, read off the names of their folders: opening each one's metadata takes ten times as long."""
    found: dict[str, str] = {}
    for folder in metadata_folders():
        if match := _INSTALLED.fullmatch(folder.name):
            name, version = match["name"], match["version"]
        else:
            metadata = importlib.metadata.PathDistribution(folder).metadata
            name, version = metadata["Name"] or folder.stem, metadata["Version"] or "unknown"
        found.setdefault(canonical(name), version)
    return dict(sorted(found.items()))


def metadata_folders() -> Iterator[Path]:
    """The folder of metadata of each distribution on the path; the first of a name is the one that is imported."""
    for entry in dict.fromkeys(sys.path):
        place = Path(entry or ".")
        if place.is_dir():
            yield from (folder for folder in sorted(place.iterdir()) if folder.suffix in (".dist-info", ".egg-info"))


@functools.cache
def processor() -> str:
    """The model of the CPU: results of floating-point code may depend on which instructions it has."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.lower().startswith(("model name", "cpu model")):
                    return line.partition(":")[2].strip()
    except OSError:
        if sys.platform == "darwin":
            done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=5)
            return done.stdout.strip()
    return platform.processor() or platform.machine()


def without_secrets(words: Iterable[str]) -> list[str]:
    """A command line that may be shown: values whose key names a secret, passwords in URLs and known forms of tokens are replaced."""
    shown: list[str] = []
    hide_next = False
    for word in words:
        key, equals, value = word.partition("=")
        secret = _names_secret(key)
        if hide_next and not word.startswith("--"):
            shown.append(REDACTED)
        elif secret and equals and value:
            shown.append(f"{key}={REDACTED}")
        elif FORMATS.search(word):
            shown.append(REDACTED)
        else:
            word = URL_PASSWORD.sub(lambda match: match[0].replace(f":{match[1]}@", f":{REDACTED}@"), word)
            shown.append(_PAIR.sub(lambda pair: f"{pair[1]}{REDACTED}" if _names_secret(pair[2]) else pair[0], word))
        hide_next = secret and not equals and word.startswith("-")
    return shown


def _names_secret(key: str) -> bool:
    last = key.rsplit(".", 1)[-1].lower()
    return bool(SECRET_NAME.search(key)) or last.endswith("key")


def _memory_gib() -> float | None:
    """The machine's memory, or what a container is limited to when that is less."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    for file in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        limit = file.read_text().strip() if file.is_file() else ""
        memory = min(memory, int(limit)) if limit.isdigit() else memory
    return round(memory / 2**30, 1)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user number need not have a name
        return str(os.getuid())


def _short(value: Any) -> str:
    """A digest by its first letters, anything else in full."""
    text = "none" if value is None else str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text


def _listed(variables: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(variables.items())) or "unset"

"""Where tracking may lie: its URI as MLflow takes it, whether it answers, and where SQLite must not be used."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cluster.store import Store
from conf.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Engine

PROBE_S, BUSY_S = 2, 20
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|ceph|glusterfs|lustre|beegfs|gpfs|afs|ocfs2|gfs2|panfs|orangefs|"
    r"fuse\.(sshfs|ceph(-fuse)?|glusterfs|s3fs|gcsfuse|rclone|juicefs|davfs2?|beegfs|moosefs|mfs|blobfuse2?|goofys|mount-s3)"
)


def normal(uri: str | None, store: Store) -> str:
    """The URI as MLflow takes it: absolute paths, psycopg 3, and no wait on a dead host longer than some seconds."""
    if uri is None:
        return f"sqlite:///{store.root / 'mlflow.db'}?timeout={BUSY_S}"
    if uri.startswith("sqlite:///"):
        file, _, options = uri.removeprefix("sqlite:///").partition("?")
        return f"sqlite:///{Path(file).absolute()}?{options or f'timeout={BUSY_S}'}"
    if re.match(r"postgresql(\+psycopg)?://", uri):
        rest = uri.partition("://")[2]
        waits = [f"{key}={value}" for key, value in {"connect_timeout": 5, "tcp_user_timeout": 10_000}.items() if f"{key}=" not in rest]
        return f"postgresql+psycopg://{rest}" + (("&" if "?" in rest else "?") + "&".join(waits) if waits else "")
    if re.match(r"https?://", uri):
        return uri.rstrip("/")
    raise UsageError(
        "store.tracking has an unknown scheme",
        value=uri.partition(":")[0],
        allowed="null, sqlite:///FILE, postgresql+psycopg://..., http://..., https://...",
    )


def sqlite_file(uri: str) -> Path | None:
    """The database file, where the store is SQLite."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:") else None


def probe(uri: str) -> None:
    """Raise whatever its driver does unless the store at `uri` (a normal one) answers within about two seconds."""
    if file := sqlite_file(uri):
        _probe_sqlite(file)
    elif uri.startswith("postgresql"):
        with engine(uri).connect() as connection:
            connection.exec_driver_sql("select 1")
    else:
        _probe_server(uri)


def _probe_sqlite(file: Path) -> None:
    # Never by `open`: closing any handle of the file would drop the locks that SQLite holds on it in this process.
    with contextlib.closing(sqlite3.connect(file, timeout=PROBE_S, isolation_level=None)) as connection:
        connection.execute("begin immediate")
        connection.execute("rollback")


def _probe_server(uri: str) -> None:
    import urllib.error
    import urllib.request

    address = re.sub(r"://.*@", "://", uri)  # the health page needs no user
    try:
        urllib.request.urlopen(f"{address}/health", timeout=PROBE_S).close()  # noqa: S310 (the scheme was checked)
    except urllib.error.HTTPError as error:  # it answers, and whether it lets us in is for MLflow to find out
        if error.code >= 500:
            raise


def engine(uri: str) -> Engine:
    import sqlalchemy

    return sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": PROBE_S})


def refuse_shared_sqlite(uri: str | None, hosts: Collection[str], root: Path, mounts: Path = Path("/proc/mounts")) -> None:
    """Raise UsageError when tracking is SQLite (null: in the store) where its locks do not hold: Ray on several hosts, a network disk."""
    if uri is not None and not uri.startswith("sqlite:"):
        return
    folder = root if uri is None else Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute().parent
    kind = _file_system(folder, mounts)
    if len(set(hosts)) > 1:
        reason, value = "SQLite cannot track a Ray cluster of several hosts", f"{len(set(hosts))} hosts"
    elif _NETWORK.fullmatch(kind):
        reason, value = f"SQLite's locks do not hold on a network file system ({kind})", str(folder)
    else:
        return
    raise UsageError(
        reason,
        value=value,
        allowed="store.tracking=postgresql+psycopg://USER@HOST/DATABASE, or https:// of an MLflow server",
        next="createdb mlflow; export RAYCYCLE_TRACKING=postgresql+psycopg://USER@HOST/mlflow; raycycle run store=tracked ...",
    )


def _file_system(folder: Path, mounts: Path) -> str:
    """The type of the file system that `folder` lies on; empty where the system does not say."""
    place, best, kind = folder.resolve(), Path(), ""
    with contextlib.suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            _, point, found, *_ = [*line.split(), "", "", ""]
            # Spaces and the like are written in octal; the last mount on a point hides those before it.
            at = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point))
            if place.is_relative_to(at) and len(at.parts) >= len(best.parts):
                best, kind = at, found
    return kind


def without_password(text: str, uri: str) -> str:
    """A message of a driver without the password that `uri` holds."""
    found = re.search(r"://[^:/@?]*:(.*)@", uri)
    for secret in {found[1], unquote(found[1])} - {""} if found else set():
        text = text.replace(secret, "***")
    return text

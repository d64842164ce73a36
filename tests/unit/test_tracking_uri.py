"""Where tracking lies: what is accepted, what is never shown, and where SQLite is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.store import Store
from conf.errors import UsageError
from conf.schema import StoreConfig
from conf.uris import redacted
from ledger.places import refuse_shared_sqlite
from ledger.tracking import Tracking, TrackingDown

MOUNTS = r"""proc /proc proc rw 0 0
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/local xfs rw 0 0
me@there: /mnt/with\040space fuse.sshfs rw 0 0
/dev/vdc /over ext4 rw 0 0
share /over cifs rw 0 0
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    file = tmp_path / "mounts"
    file.write_text(MOUNTS)
    return file


@pytest.mark.parametrize("root", ["/home/me/.raycycle", "/mnt/with space/x", "/over/x"])
def test_sqlite_on_a_network_disk_is_refused(root: str, mounts: Path) -> None:
    for uri in (None, f"sqlite:///{root}/some.db"):
        with pytest.raises(UsageError, match="network file system") as caught:
            refuse_shared_sqlite(uri, ["a"], Path(root), mounts)
        assert "postgresql" in caught.value.allowed
    refuse_shared_sqlite("postgresql://host/db", ["a"], Path(root), mounts)
    refuse_shared_sqlite("sqlite:////srv/some.db", ["a"], Path(root), mounts)


@pytest.mark.parametrize("root", ["/srv/x", "/home/local/x", "/homeless", "/mnt/with"])
def test_sqlite_on_a_local_disk_is_fine(root: str, mounts: Path) -> None:
    refuse_shared_sqlite(None, ["a", "a"], Path(root), mounts)
    refuse_shared_sqlite(None, [], Path(root), mounts.with_name("none"))


def test_sqlite_for_several_hosts_is_refused(mounts: Path) -> None:
    with pytest.raises(UsageError, match="several hosts"):
        refuse_shared_sqlite(None, {"a", "b"}, Path("/srv"), mounts)
    refuse_shared_sqlite("https://mlflow", {"a", "b"}, Path("/srv"), mounts)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql+psycopg://me:s3cret@host:5432/db?sslmode=require",
        "postgresql://me:s3c@s3cret/ret:@host/db",
        "postgresql://host/db?user=me&password=s3cret&sslmode=require",
        "https://me:s3cret@host/path",
        "https://host/?token=s3cret",
        "http://:s3cret@host",
    ],
)
def test_a_password_is_never_shown(uri: str) -> None:
    shown = redacted(uri)
    assert "s3c" not in shown
    assert "***" in shown
    assert "host" in shown
    assert "s3c" not in repr(StoreConfig(tracking=uri))


@pytest.mark.parametrize("uri", ["postgresql://me@host:5432/db", "sqlite:////a/b@c:d.db", "http://127.0.0.1:5000"])
def test_what_holds_no_password_is_shown_whole(uri: str) -> None:
    assert redacted(uri) == uri


@pytest.mark.parametrize("uri", ["mysql://me:s3cret@host/db", "me:s3cret@host", "/path/mlruns", "sqlite://"])
def test_an_unknown_scheme_is_refused_and_its_rest_not_shown(uri: str, store: Store) -> None:
    for making in (lambda: StoreConfig(tracking=uri), lambda: Tracking(store, uri)):
        with pytest.raises(UsageError, match=r"store\.tracking") as caught:
            making()
        assert "s3cret" not in str(caught.value)


def test_making_a_tracking_opens_nothing_and_paths_become_absolute(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Tracking(store).sqlite_file == store.root / "mlflow.db"
    assert Tracking(store, "sqlite:///mine.db").sqlite_file == tmp_path / "mine.db"
    assert Tracking(store, "postgresql://h/d").uri.startswith("postgresql+psycopg://h/d?connect_timeout=")
    assert not list(tmp_path.glob("*.db"))


def test_a_store_that_is_down_is_told_without_its_password(store: Store) -> None:
    for uri in ("postgresql://me:s3cret@127.0.0.1:1/db", "http://me:s3cret@127.0.0.1:1"):
        with pytest.raises(TrackingDown, match="does not answer") as caught:
            Tracking(store, uri).probe()
        assert "s3cret" not in str(caught.value)
        assert caught.value.__cause__ is None

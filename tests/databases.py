"""The real PostgreSQL of this machine: a fresh database for a test. Without one the test is skipped, which CI does not allow."""

from __future__ import annotations

import contextlib
import getpass
import os
import uuid
from collections.abc import Iterator

import psycopg
import pytest

SERVER = ("127.0.0.1", 5432)


def open_database(database: str) -> psycopg.Connection:
    host, port = SERVER
    return psycopg.connect(host=host, port=port, user=getpass.getuser(), dbname=database, autocommit=True, connect_timeout=2)


@contextlib.contextmanager
def fresh_database() -> Iterator[str]:
    """The name of a fresh PostgreSQL database."""
    try:
        admin = open_database("postgres")
    except psycopg.OperationalError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no PostgreSQL at {SERVER[0]}:{SERVER[1]}: {error}")
    name = f"raycycle_{uuid.uuid4().hex}"
    with admin:
        admin.execute(f"create database {name}")
        yield name
        admin.execute(f"drop database {name} with (force)")

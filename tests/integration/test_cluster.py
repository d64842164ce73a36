"""The same run on one private Ray and on an existing cluster of two nodes gives the same digests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from homes import Home

RUN = ("run", "experiment=flights_small", "dataset.source.months=[1,2,3]", "sweep.num_trials=3", "deploy=none", "--until", "register")


@pytest.fixture
def two_nodes() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def parts(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: answer[key] for key in ("snapshot", "trainer", "params", "metrics", "digest")}


def test_two_nodes_make_the_same_model(home: Home, two_nodes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCYCLE_HOME", str(home.folder / "home"))
    assert "RAY_ADDRESS" not in os.environ
    alone = home.raycycle(*RUN, "cluster.cpus=2", "store.root=alone")
    joined = home.raycycle(*RUN, "cluster=existing", f"cluster.address={two_nodes}", "store.root=joined")
    assert parts(joined) == parts(alone)

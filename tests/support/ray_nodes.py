"""A Ray cluster of two nodes on this machine, for the tests of engines."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = str(Path(__file__).parent)


def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """(cluster, its second node): each node is a set of processes with one CPU; for a fixture."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", HERE)
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    second = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    yield nodes, second
    ray.shutdown()
    nodes.shutdown()

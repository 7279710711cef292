"""A Ray cluster for the tests of launches; its tests run in one process of `pytest -n 3`, so that it starts once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sun_sglang.bench.launch.ray_cluster import TwoNodes, two_nodes


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[TwoNodes]:
    """Run two Ray nodes on this machine, with room for three workers each."""
    with two_nodes(cpus=3) as nodes:
        yield nodes

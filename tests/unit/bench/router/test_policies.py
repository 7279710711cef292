"""Traffic of the policy benchmark."""

from __future__ import annotations

import random

from sun_sglang.bench.router.policies import CONVERSATIONS, traffic
from sun_sglang.bench.router.policy_cluster import TASKS


def test_traffic_is_skewed_as_told() -> None:
    even, skewed = (traffic(random.Random(1), skew, 100, 20) for skew in (0.0, 3.0))
    shares = [sum(request.task == TASKS[0] for request in requests) / len(requests) for requests in (even, skewed)]
    assert 0.2 < shares[0] < 0.3
    assert shares[1] > 0.75
    assert traffic(random.Random(1), 0.0, 100, 20) == even
    assert len({tuple(request.prompt[:128]) for request in even}) == CONVERSATIONS * len(TASKS)

"""Cards that no worker should send: the router refuses the worker, reports the reason, and goes on."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import SUN, Start

HUGE = 1 << 62


def changed(card: dict[str, Any], change: dict[str, Any]) -> bytes:
    identity = card["identity"] | change.get("identity", {})
    return orjson.dumps(card | change | {"identity": identity})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"identity": {"vocab_size": 0}}, "identity.vocab_size"),
        ({"identity": {"vocab_size": HUGE}}, "identity.vocab_size"),
        ({"identity": {"page_size": -1}}, "identity.page_size"),
        ({"identity": {"num_layers": HUGE}}, "identity.num_layers"),
        ({"identity": {"weights": "w" * 1000}}, "identity.weights"),
        ({"identity": {"rope": "r" * 100_000}}, "identity.rope"),
        ({"bootstrap_port": 0}, "bootstrap_port"),
        ({"bootstrap_port": 70_000}, "bootstrap_port"),
        ({"bootstrap_port": -1}, "bootstrap_port"),
        ({"max_input_tokens": 0}, "max_input_tokens"),
        ({"max_input_tokens": -5}, "max_input_tokens"),
        ({"context_length": HUGE}, "context_length"),
        ({"kv_tokens": 1.5}, "kv_tokens"),
        ({"incarnation": "i" * 1000}, "incarnation"),
        ({"patches": [{"name": "p", "target": "t", "state": "applied"}] * 100}, "patches"),
    ],
)
async def test_a_card_with_an_absurd_value_refuses_its_worker_and_ends_nothing(
    start: Start, change: dict[str, Any], where: str
) -> None:
    system = await start(SUN, {"math": 2, "tool": 1, "base": 1})
    bad = system["math-1"]
    bad.raw_card = changed(bad.card, change)
    registry = system.router.registry
    await wait_until(lambda: registry.state("math-1") == "refused")
    assert f"its card is not valid: {where}: " in registry.workers["math-1"].reason
    # the loops go on: the worker serves as soon as its card is right
    bad.raw_card = None
    await wait_until(lambda: registry.state("math-1") == "ready")
    assert not system.router.loops.failed.is_set()


async def test_a_card_without_end_refuses_its_worker_and_is_not_read_to_the_end(start: Start) -> None:
    system = await start(SUN, {"math": 2, "tool": 1, "base": 1})
    system["math-1"].endless_card = True
    registry = system.router.registry
    await wait_until(lambda: registry.state("math-1") == "refused")
    assert registry.workers["math-1"].reason == "its card is not valid: its answer is over 262144 bytes"
    system["math-1"].endless_card = False
    await wait_until(lambda: registry.state("math-1") == "ready")

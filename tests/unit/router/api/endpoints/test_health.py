"""Probes: what each path states, to whom, while tasks and processes come and go."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import SMALL, SUN, Start, System

READY = ["/readyz", "/ready", "/ping"]
MATH_KEY, ALL_KEY = "math-key-0123456789", "all-key-0123456789ab"


@pytest.fixture
async def locked(start: Start, tmp_path: Path) -> System:
    file = tmp_path / "keys.yaml"
    keys = [{"name": "math", "key": MATH_KEY, "tasks": ["math"]}, {"name": "all", "key": ALL_KEY}]
    file.write_text(yaml.safe_dump({"keys": keys}))
    system: System = await start(SUN, SMALL, router={"api_keys": str(file)})
    return system


async def probe(system: System, path: str, key: str | None = None) -> tuple[int, str]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with system.client.get(path, headers=headers) as reply:
        return reply.status, await reply.text()


@pytest.mark.parametrize("path", [*READY, "/livez"])
async def test_probe_without_a_key_is_answered_and_names_no_task(locked: System, path: str) -> None:
    assert await probe(locked, path) == (200, '{"status":"ok"}')
    await locked["tool-0"].stop()
    await wait_until(lambda: locked.router.registry.unserved() == ["tool"])
    assert await probe(locked, path) == (200, '{"status":"ok"}'), "one task of two is served"
    await locked["base-0"].stop()
    await wait_until(lambda: len(locked.router.registry.unserved()) == 2)
    down = (200, '{"status":"ok"}') if path == "/livez" else (503, '{"status":"unready"}')
    assert await probe(locked, path) == down
    assert (await probe(locked, "/health"))[0] == 503


async def test_readiness_of_a_task_requires_a_key_that_may_call_it(locked: System) -> None:
    await locked["tool-0"].stop()
    await wait_until(lambda: locked.router.registry.unserved() == ["tool"])
    assert (await probe(locked, "/readyz?task=math"))[0] == 401
    assert (await probe(locked, "/readyz?task=math", "wrong-key-0123456789"))[0] == 401
    assert (await probe(locked, "/readyz?task=math", MATH_KEY))[0] == 200
    missing, hidden = [await probe(locked, f"/readyz?task={task}", MATH_KEY) for task in ("none", "tool")]
    assert missing[0] == hidden[0] == 404
    assert missing[1].replace("none", "tool") == hidden[1]
    assert (await probe(locked, "/readyz?task=tool", ALL_KEY))[0] == 503


@pytest.mark.parametrize("path", ["/health", *READY])
async def test_readiness_of_a_router_that_drains_ends_and_its_life_does_not(small: System, path: str) -> None:
    small.router.draining.active = True
    status, text = await probe(small, path)
    assert (status, '"status":"draining"' in text) == (503, True)
    assert (await probe(small, path + "?task=math"))[0] == 503
    assert (await probe(small, "/livez"))[0] == 200

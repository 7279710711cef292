from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI, OpenAIError

from sun_sglang.topology_file import load_topology
from tests.support.emulated_cluster import emulated_cluster
from tests.support.ports import PORTS

EXAMPLES = Path(__file__).parents[3] / "examples"
TURNS = 2


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


async def test_agents_of_the_example_find_each_others_context_in_the_cache() -> None:
    agents, topology = load("agents"), load_topology(EXAMPLES / "agents.yaml")
    assert list(topology.tasks) == list(agents.AGENTS)
    tasks = {name: (task.prefill, task.decode) for name, task in topology.tasks.items()}
    replicas = {name: pool.replicas for name, pool in topology.pools.items()}
    policy = topology.router.policy.model_dump()
    async with emulated_cluster(tasks, replicas, policy=policy) as cluster:

        def call() -> list[Any]:
            with agents.client_of(f"{cluster.router.url}/v1", "one") as client:
                return list(agents.run(client, TURNS, 16))

        calls = await asyncio.to_thread(call)
        assert len(cluster.prefilled_by()) == 1
    assert [(found.turn, found.agent) for found in calls] == [
        (turn, agent) for turn in range(1, TURNS + 1) for agent in agents.AGENTS
    ]
    first, *others = calls
    assert first.cached_tokens == 0
    # pages of one token: the whole prompt of the call before
    assert [found.cached_tokens for found in others] == [found.prompt_tokens for found in calls[:-1]]
    assert str(others[0]).startswith("turn 1  coder ")
    assert str(others[0]).endswith("% from the cache")


def test_agents_of_the_example_without_a_server_say_how_to_start_it() -> None:
    url = f"http://127.0.0.1:{next(PORTS)}/v1"
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "agents.py"), url], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"nothing answers at {url}; start it: sun launch examples/agents.yaml --detach\n"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"usage": {"prompt_tokens": 4}}, "the answer is none of a chat"),
        ({"choices": [{"message": None}]}, "the answer is none of a chat"),
        ({"choices": [{"message": {"role": "assistant", "content": "a"}}]}, "the answer states no usage"),
        ({"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 0}}, "the answer states no usage"),
    ],
)
def test_agents_of_the_example_name_an_answer_of_another_server(reply: dict[str, Any], message: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=reply))
    client = OpenAI(base_url="http://h/v1", api_key="none", http_client=httpx.Client(transport=transport))
    with client, pytest.raises(OpenAIError, match=message):
        list(load("agents").run(client, 1, 8))


def test_agents_of_the_example_run_one_turn_at_least() -> None:
    command = [sys.executable, str(EXAMPLES / "agents.py"), "--turns", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "--turns: at least 1" in done.stderr

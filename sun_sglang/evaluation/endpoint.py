"""The router under evaluation, and the check that it serves the tasks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from sun_sglang.errors import UserError
from sun_sglang.launch.state import DeploymentState
from sun_sglang.topology_file import load_topology

KEY = "OPENAI_API_KEY"
_REFUSED = (401, 403)
_TIMEOUT = aiohttp.ClientTimeout(total=30)


@dataclass(frozen=True)
class Endpoint:
    """A router.

    Attributes:
        url: base URL, without `/v1`.
        models: directory or Hugging Face id of each task's prefill model, with its tokenizer; empty where only the URL
            is known.
    """

    url: str
    models: Mapping[str, str] = field(default_factory=dict)

    @property
    def openai(self) -> str:
        """The base URL of its OpenAI API."""
        return f"{self.url}/v1"

    def tokenizer(self, task: str, given: Path | None) -> str:
        """Return the directory or Hugging Face id of a task's tokenizer.

        Args:
            task: name of the task.
            given: the user's directory, which has priority; None for the prefill model's.

        Raises:
            UserError: the user gave none, and only the URL is known.
        """
        found = str(given) if given else self.models.get(task)
        if found is None:
            raise UserError(
                f"the tokenizer of `{task}` is unknown, since only a URL is given; add --tokenizer DIRECTORY"
            )
        return found


def endpoint_of(state: DeploymentState) -> Endpoint:
    """Return the router of a deployment on this machine, with the models that its topology names."""
    topology = load_topology(state.topology)
    models = {name: str(topology.pools[task.prefill].model) for name, task in topology.tasks.items()}
    return Endpoint(state.url.rstrip("/"), models)


def endpoint_at(url: str) -> Endpoint:
    """Return the router at a URL, with or without `/v1`."""
    return Endpoint(url.rstrip("/").removesuffix("/v1"))


async def require_served(endpoint: Endpoint, tasks: Iterable[str]) -> None:
    """Check that a router answers and serves tasks, with the API key of the environment.

    Harnesses repeat a failing request a hundred times or without end, so this check comes first.

    Raises:
        UserError: no router answers, it refuses the key, or it does not serve a task.
    """
    served = await _served(endpoint)
    missing = [task for task in tasks if task not in served]
    if missing:
        raise UserError(f"{endpoint.url} serves no model `{missing[0]}`; it serves {', '.join(served) or 'none'}")


async def _served(endpoint: Endpoint) -> list[str]:
    key = os.environ.get(KEY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{endpoint.openai}/models"
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT, headers=headers) as session, session.get(url) as reply:
            if reply.status not in _REFUSED:
                reply.raise_for_status()
                return [model["id"] for model in (await reply.json())["data"]]
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"no OpenAI API answers at {url} ({e or type(e).__name__}); is it a router's URL?") from e
    raise UserError(f"{url} answers {reply.status}; set {KEY} to a key of this router")

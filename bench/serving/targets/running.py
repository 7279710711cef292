"""A server that runs: the deployment of this machine, or the one at a URL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from pydantic import ValidationError

from sun_sglang.bench.load.client.endpoint import Endpoint, base_url, client_session
from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.serving.targets.target import Target, TargetKind, TaskWorkers, one_endpoint
from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.launch.discovery import running_deployment, running_deployments
from sun_sglang.launch.router_access import read_access

KEY = "OPENAI_API_KEY"
"""Environment variable with the API key of a server at a URL."""

_WITHIN = 30.0


async def deployment_target(file: Path | None, run_dir: Path | None) -> Target:
    """Return the running deployment of this machine that a user means, reached with the launcher's own key.

    Args:
        file: its topology file; None where one deployment runs.
        run_dir: the `--run-dir` given to `sun launch`.

    Raises:
        UserError: none runs, or several do; or its router does not answer.
    """
    if not running_deployments(file, run_dir) and file is None and run_dir is None:
        raise BenchError("no deployment is running; start one with `sun launch FILE`, or name a server with --url")
    directory, state = running_deployment(file, run_dir)
    return await router_target("deployment", str(state.topology.name), state.url, directory)


async def router_target(kind: TargetKind, name: str, url: str, run_dir: Path) -> Target:
    """Return the deployment behind a router of this machine, reached with the launcher's own key.

    Args:
        kind: `deployment`, or `topology` where this benchmark has started it.
        name: its name.
        url: the router's URL.
        run_dir: the deployment's run directory.

    Raises:
        BenchError: the router does not answer.
    """
    access = read_access(run_dir)
    return await _target(kind, name, Endpoint(base_url(url), access.headers, access.ssl), can_flush=True)


async def url_target(url: str, environment: Mapping[str, str]) -> Target:
    """Return the server at a URL: a router of this project, or any server with OpenAI's API.

    Args:
        url: with or without `/v1`.
        environment: environment variables, for the key.

    Raises:
        BenchError: the URL is none, nothing answers there, or the answer lists no models.
    """
    key = environment.get(KEY)
    endpoint = Endpoint(base_url(url), {"Authorization": f"Bearer {key}"} if key else {})
    return await _target("url", endpoint.url, endpoint)


async def _target(kind: TargetKind, name: str, endpoint: Endpoint, *, can_flush: bool = False) -> Target:
    async with client_session(timeout=_WITHIN) as session:
        report = _tasks_report(await _get(session, endpoint, "/tasks", required=False))
        if report is not None:
            workers = {
                task: TaskWorkers(
                    frozenset(worker.name for worker in found.prefill.workers),
                    frozenset(worker.name for worker in found.decode.workers),
                )
                for task, found in report.tasks.items()
            }
            return one_endpoint(kind, name, endpoint, report.tasks, workers, can_flush=can_flush)
        return one_endpoint(kind, name, endpoint, _models(await _get(session, endpoint, "/v1/models"), endpoint.url))


async def _get(session: aiohttp.ClientSession, endpoint: Endpoint, path: str, *, required: bool = True) -> Any:
    """Return the JSON of a page; None where it is not required and the server has none."""
    url = endpoint.url + path
    try:
        async with session.get(url, headers=endpoint.headers, ssl=endpoint.ssl, allow_redirects=False) as reply:
            if reply.status in (401, 403):
                raise BenchError(f"{url} answers {reply.status}; set {KEY} to a key of this server")
            if reply.status == 200:
                return orjson.loads(await reply.read())
            if not required:
                return None
            raise BenchError(f"{url} answers {reply.status}; is this the URL of a server with OpenAI's API?")
    except TimeoutError as e:
        raise BenchError(f"{url} does not answer within {_WITHIN:g} s") from e
    except aiohttp.ClientConnectorCertificateError as e:
        raise BenchError(
            f"the certificate at {url} is not accepted ({e.certificate_error}); set SSL_CERT_FILE to the one of its "
            "authority, and use the host name that it is for"
        ) from e
    except (aiohttp.ClientError, OSError) as e:
        raise BenchError(f"nothing answers at {url} ({_reason(e)})") from e
    except (orjson.JSONDecodeError, UnicodeDecodeError) as e:
        if not required:
            return None
        raise BenchError(f"{url} does not answer with JSON; is this the URL of a server with OpenAI's API?") from e


def _reason(error: Exception) -> str:
    cause = getattr(error, "os_error", error)
    return getattr(cause, "strerror", None) or str(cause) or type(error).__name__


def _tasks_report(page: Any) -> TasksReport | None:
    try:
        return TasksReport.model_validate(page)
    except ValidationError:
        return None


def _models(page: Any, url: str) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(str(model["id"]) for model in page["data"]))
    except (KeyError, TypeError) as e:
        raise BenchError(f"{url}/v1/models does not list models; is this the URL of a server with OpenAI's API?") from e

"""The connection of this process to a Ray cluster."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import socket
from collections.abc import Mapping
from typing import Any

from sun_sglang.errors import UserError
from sun_sglang.launch.places.ray.calls import reason
from sun_sglang.launch.places.ray.room import usable_nodes

_REACHED_WITHIN_S = 5.0
_START = "run `ray start --head` on one machine and `ray start --address=HOST:6379` on every other one"


async def connect(address: str) -> None:
    """Connect this process to a cluster, once. The connection ends with the process.

    Args:
        address: `auto` for the cluster of this machine, or `HOST:PORT` of its head.

    Raises:
        UserError: Ray is not installed, no cluster runs there, this machine is not part of it, or the versions differ.
    """
    try:
        import ray
    except ImportError as e:
        raise UserError(f"place: Ray is not installed here ({e}); pip install 'sun-sglang[ray]'") from e
    if ray.is_initialized():
        _require_same(address, ray.get_runtime_context().gcs_address)
        return
    if "://" in address:
        raise UserError(
            f"place: `{address}` is an address of Ray Client or of a Ray job, which is not supported; run `sun` on a "
            "machine of the cluster, with `auto` or HOST:PORT"
        )
    if address != "auto":
        await asyncio.to_thread(_require_answer, address)
    try:
        # in a thread: in the main thread Ray would replace the handler of SIGTERM
        await asyncio.to_thread(_init, ray, address)
    except Exception as e:
        raise UserError(f"place: {_explain(address, e)}") from e


def _init(ray: Any, address: str) -> None:
    # Ray tells a script's author about its handlers and its dashboard
    with contextlib.redirect_stderr(io.StringIO()):
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)


def _explain(address: str, error: Exception) -> str:
    text = str(error)
    if "ersion mismatch" in text:
        return f"the versions of this machine and of the Ray cluster differ: {' '.join(text.split())}"
    if isinstance(error, ConnectionError):
        return f"no Ray cluster runs at `{address}`; {_START}"
    return f"Ray cannot connect to `{address}` ({reason(error)}); `sun` runs on a machine of the cluster: {_START}"


def _require_answer(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"place: `{address}` is no address of a Ray cluster; write `auto` or HOST:PORT")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHED_WITHIN_S):
            return
    except (OSError, OverflowError) as e:
        raise UserError(f"place: no Ray cluster answers at `{address}` ({e}); {_START}") from e


def _require_same(address: str, connected: str) -> None:
    if address not in ("auto", connected):
        raise UserError(f"place: this process is connected to the Ray cluster at {connected}, not to {address}")


async def nodes(labels: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """Return the machines of the cluster that may run workers.

    Args:
        labels: names and values that a machine must have.

    Raises:
        UserError: there is none.
    """
    import ray

    found = usable_nodes(await asyncio.to_thread(ray.nodes), labels)
    if not found:
        needed = f" and the labels {dict(labels)}" if labels else ""
        raise UserError(f"place: no machine of the Ray cluster is alive with at least one CPU{needed}")
    return found

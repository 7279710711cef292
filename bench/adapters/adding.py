"""Traffic of `sun bench` on a deployment, without and with tasks that are added meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sun_sglang.bench.adapters.deployment import PAIR, AdapterDeployment
from sun_sglang.bench.processes import sun_command
from sun_sglang.bench.serving.result import read_result
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.launch.router_access import read_access
from sun_sglang.launch.router_client import RouterClient

UNITS = {
    "add_ms": "ms",
    "add_max_ms": "ms",
    "ttft_p50_ms": "ms",
    "ttft_p99_ms": "ms",
    "adding_ttft_p50_ms": "ms",
    "adding_ttft_p99_ms": "ms",
    "failed_requests": "1",
    "completed_requests": "1",
    "added_tasks": "1",
    "prefill_mib_per_task": "MiB",
    "decode_mib_per_task": "MiB",
    "router_mib_per_task": "MiB",
}
"""The quantities of `add_under_traffic`."""

_ROLES = ("prefill", "decode", "router")


async def add_under_traffic(
    deployment: AdapterDeployment, folder: Path, load: Mapping[str, str], later: Sequence[Path], seconds: float
) -> dict[str, float]:
    """Send traffic twice, and add tasks one after another the second time.

    Args:
        deployment: what is measured.
        folder: for the results of `sun bench`.
        load: options of `sun bench`; `--warmup-duration` is one of them.
        later: folders of the added tasks' adapters.
        seconds: length of each window.

    Returns:
        Milliseconds in which a task was added (median and most), TTFT without and with additions, numbers of requests,
        and by how much a worker's memory grew in the second traffic, for each added task.

    Raises:
        SystemExit: `sun bench` fails.
        UserError: the router refuses a task.
    """
    plain = await run_traffic(deployment, load, folder / "plain.json", seconds)
    before = {role: deployment.memory(role) for role in _ROLES}
    adding = asyncio.create_task(run_traffic(deployment, load, folder / "adding.json", seconds))
    durations = await _add(deployment, later, float(load["--warmup-duration"]), seconds)
    during = await adding
    assert plain.total.time_to_first_token is not None
    assert during.total.time_to_first_token is not None
    return {
        "add_ms": 1000 * statistics.median(durations),
        "add_max_ms": 1000 * max(durations),
        "added_tasks": len(durations),
        "ttft_p50_ms": plain.total.time_to_first_token.p50,
        "ttft_p99_ms": plain.total.time_to_first_token.p99,
        "adding_ttft_p50_ms": during.total.time_to_first_token.p50,
        "adding_ttft_p99_ms": during.total.time_to_first_token.p99,
        "failed_requests": plain.counts.failed + during.counts.failed,
        "completed_requests": plain.total.request_count + during.total.request_count,
        **{f"{role}_mib_per_task": (deployment.memory(role) - before[role]) / len(later) for role in _ROLES},
    }


async def _add(deployment: AdapterDeployment, later: Sequence[Path], delay: float, seconds: float) -> list[float]:
    """Add tasks, spread over the window of the traffic, and return the seconds that each took.

    Raises:
        UserError: the router refuses a task.
    """
    durations = []
    await asyncio.sleep(2 * delay)
    async with RouterClient(deployment.state.url, read_access(deployment.run_dir)) as client:
        for adapter in later:
            began = time.perf_counter()
            await client.add_task(adapter.name, {**PAIR, "adapter": str(adapter)}, seconds)
            durations.append(time.perf_counter() - began)
            await asyncio.sleep(seconds / (len(later) + 1))
    return durations


async def run_traffic(
    deployment: AdapterDeployment, load: Mapping[str, str], output: Path, seconds: float
) -> RunReport:
    """Run `sun bench` on the deployment and return its run.

    Raises:
        SystemExit: it fails.
    """
    options = [part for option in load.items() for part in option]
    command = sun_command("bench", "--run-dir", str(deployment.run_dir), *options)
    command += ["--benchmark-duration", str(seconds), "--output", str(output)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"sun bench failed:\n{printed.decode(errors='replace')}")
    return read_result(output).runs[-1]

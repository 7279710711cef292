"""The changes of modules that the workers of a deployment report."""

from __future__ import annotations

from sun_sglang.bench.adapters.deployment import AdapterDeployment
from sun_sglang.contracts.module import MODULES_PATH
from sun_sglang.contracts.modules_report import ModulesReport


async def changes_of(deployment: AdapterDeployment) -> tuple[float, float]:
    """Return the changes of all prefill workers so far, and the seconds that they took."""
    number, seconds = 0.0, 0.0
    async with deployment.worker_client() as client:
        for process in deployment.state.processes:
            if process.role != "prefill":
                continue
            async with client.get(process.url + MODULES_PATH) as reply:
                # 404: the worker serves its own model alone
                if reply.status == 200:
                    report = ModulesReport.model_validate_json(await reply.read())
                    number += sum(change.changes for change in report.changed.values())
                    seconds += sum(change.seconds for change in report.changed.values())
    return number, seconds

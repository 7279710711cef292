"""The host memory and the SGLang flags of a prefill pool whose workers change between modules. Pure."""

from __future__ import annotations

from sun_sglang.checkpoint.module.fit import flag_against_turns
from sun_sglang.contracts.module import MODULES_VARIABLE, ModuleLimits
from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.pools import ResolvedPool
from sun_sglang.topology import ModuleSettings

_GB = 10**9


def module_limits(pool: ResolvedPool, machine: Machine) -> ModuleLimits | None:
    """Return how the workers of a pool keep modules; None for a pool whose workers serve its model alone.

    Args:
        pool: the pool.
        machine: where its workers run. Half of its memory is the default bound: workers share the memory of equal
            modules.
    """
    if not pool.accepts_modules:
        return None
    settings = pool.modules or ModuleSettings()
    given = settings.host_memory_gb
    host_bytes = machine.memory // 2 if given is None else round(given * _GB)
    return ModuleLimits(host_bytes=host_bytes, ttft_slo=settings.ttft_slo)


def module_environment(pool: ResolvedPool, machine: Machine) -> dict[str, str]:
    """Return the variable that tells a pool's workers how they keep modules; none for other pools."""
    limits = module_limits(pool, machine)
    return {} if limits is None else {MODULES_VARIABLE: limits.model_dump_json()}


def require_turns(pool: ResolvedPool) -> None:
    """Raise unless the user's flags let the workers of a pool change between modules.

    Raises:
        TopologyError: names the flag, and a task with a module.
    """
    if not pool.accepts_modules:
        return
    flag = flag_against_turns(pool.flags)
    if flag is not None:
        task = next(iter(pool.task_modules), None)
        reason = f"the task `{task}` has a `model` of its own" if task else f"`{pool.where}.modules` is set"
        problem = f"is set, and {reason}: modules cannot take turns with it"
        raise TopologyError(pool.flag_path(flag), problem, "remove the flag, or give the task a pool of its own")

"""The complete command of one start: a worker's plan with the address that the place has given it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from sun_sglang.launch.places.place import Address
from sun_sglang.launch.planning.flags.engine_flags import to_argv
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.router.auth.api_keys import ENVIRONMENT
from sun_sglang.strict import Strict


class Command(Strict):
    """One start of a worker.

    Attributes:
        name: the worker.
        module: the Python module that runs it: `python -m MODULE`.
        forkable: whether it may be forked from one process that has imported SGLang.
        argv: SGLang's flags, complete.
        env: variables added to the environment of its processes.
        threads: number of threads that torch may use.
        log: file for its output.
    """

    name: str
    module: str
    forkable: bool
    argv: tuple[str, ...]
    env: dict[str, str]
    threads: int
    log: Path


def command_at(worker: WorkerPlan, address: Address) -> Command:
    """Return the command that starts a worker at an address."""
    flags = {
        "host": address.host,
        "port": address.port,
        "nccl_port": address.nccl_port,
        "disaggregation_bootstrap_port": address.bootstrap_port,
    }
    return Command(
        name=worker.name,
        module=worker.module,
        forkable=worker.forkable,
        argv=(*worker.argv, *to_argv(flags)),
        # the address that a worker reports to its peers
        env={**worker.env, "SGLANG_HOST_IP": address.host},
        threads=worker.threads,
        log=worker.log,
    )


def fingerprint(worker: WorkerPlan) -> str:
    """Return a value that two plans of a worker share if a start of one is as good as a start of the other.

    Variables of the environment are left out: they follow from the machines, which come and go.
    """
    return hashlib.sha256(repr((worker.module, worker.argv, worker.nodes)).encode()).hexdigest()


def inherited_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a worker inherits from the launcher: all but the keys of the router's clients."""
    return {name: value for name, value in environ.items() if name != ENVIRONMENT}

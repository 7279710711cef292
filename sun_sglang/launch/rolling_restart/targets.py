"""Decide which workers a restart means. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sun_sglang.errors import UserError
from sun_sglang.launch.rolling_restart.messages import RestartRequest
from sun_sglang.strict import listed


class Member(NamedTuple):
    """One worker of the router's fleet.

    Attributes:
        name: its name.
        pool: its pool.
        url: where it listens.
        state: its state, by one process of the router; `leaving` once it was removed.
    """

    name: str
    pool: str
    url: str
    state: str


class Target(NamedTuple):
    """What to restart.

    Attributes:
        pool: the pool of the workers.
        workers: their names, in the order of the fleet.
    """

    pool: str
    workers: tuple[str, ...]


def choose(request: RestartRequest, fleet: Sequence[Member], launched: Mapping[str, str]) -> Target:
    """Return the workers that a request means.

    Args:
        request: the request.
        fleet: every worker of the router.
        launched: the URL of each worker that the launcher runs, by name.

    Raises:
        UserError: no worker or more than one thing is meant, or the launcher does not run a worker that is.
    """
    stay = [member for member in fleet if member.state != "leaving"]
    meant = _meant(request, stay, launched)
    if foreign := [member.name for member in meant if launched.get(member.name) != member.url]:
        raise UserError(_foreign_error(meant, foreign))
    return Target(meant[0].pool, tuple(member.name for member in meant))


def _meant(request: RestartRequest, fleet: Sequence[Member], launched: Mapping[str, str]) -> list[Member]:
    name, pool = request.name, request.pool
    if name is None and pool is None:
        raise UserError("name a pool or a worker to restart")
    if pool is not None:
        members = [member for member in fleet if member.pool == pool]
        if not members:
            raise UserError(f"no worker is in a pool `{pool}`; pools: {_pools(fleet)}")
        if name is None:
            return members
        if found := [member for member in members if member.name == name]:
            return found
        raise UserError(f"pool `{pool}` has no worker `{name}`; its workers: {listed(m.name for m in members)}")
    members = [member for member in fleet if member.pool == name]
    found = [member for member in fleet if member.name == name]
    if members and found:
        raise UserError(
            f"`{name}` is a pool, and a worker of the pool `{found[0].pool}`; give `--pool {name}` for the pool, or "
            f"`{name} --pool {found[0].pool}` for the worker"
        )
    if members or found:
        return members or found
    if name in launched:
        raise UserError(f"the router does not use `{name}`: it was removed, so a restart would change nothing")
    raise UserError(
        f"no pool and no worker is named `{name}`; pools: {_pools(fleet)}; workers: {listed(m.name for m in fleet)}"
    )


def _pools(fleet: Sequence[Member]) -> str:
    return listed(dict.fromkeys(member.pool for member in fleet))


def _foreign_error(meant: Sequence[Member], foreign: Sequence[str]) -> str:
    text = (
        f"added by URL, so this launcher cannot restart it: {listed(foreign)}; for each: `sun workers drain NAME "
        "--move`, restart it where it was started, `sun workers resume NAME`"
    )
    own = [member.name for member in meant if member.name not in foreign]
    return text + (f". The launcher's own can be restarted by name: {listed(own)}" if own else "")

"""Check that the pools of a topology can run at its place. Pure."""

from __future__ import annotations

from sun_sglang.errors import TopologyError, UserError
from sun_sglang.launch.planning.pools import Pools
from sun_sglang.topology import PlaceKind, PlaceSettings


def chosen_place(settings: PlaceSettings, kind: PlaceKind | None, address: str | None) -> PlaceSettings:
    """Return a topology's place with the options of the command line, which win.

    Args:
        settings: the topology's place.
        kind: the option `--place`; None where it was not given.
        address: the option `--address`; None where it was not given.

    Raises:
        UserError: there is an address, and the place has none.
    """
    chosen = settings if kind in (None, settings.kind) else PlaceSettings(kind=kind or "local")
    if address is None:
        return chosen
    if chosen.kind != "ray":
        raise UserError("--address names a Ray cluster, and the workers run on this machine; add `--place ray`")
    return chosen.model_copy(update={"address": address})


def require_place_runs(place: PlaceSettings, pools: Pools) -> None:
    """Raise unless the place can run the workers of all pools.

    Raises:
        TopologyError: a setting is for another place.
    """
    if place.kind == "local" and place != PlaceSettings():
        raise TopologyError("place", "`address`, `labels` and `room_timeout` are for Ray", "write `kind: ray`")
    for pool in pools.values():
        if place.kind == "ray" and pool.gpus is not None:
            problem = "Ray assigns the GPUs of its machines"
            raise TopologyError(f"{pool.where}.gpus", problem, "leave it out; `place.labels` chooses machines")
        if place.kind == "local" and pool.nodes > 1:
            problem = "a worker that spans machines needs a place with several"
            raise TopologyError(
                pool.flag_path("nnodes"), problem, "write `place: ray`, leave it out, or use `sun export kubernetes`"
            )
        if pool.ranks % pool.nodes:
            problem = f"its {pool.ranks} ranks cannot be divided among {pool.nodes} machines"
            raise TopologyError(pool.flag_path("nnodes"), problem, "change `tp_size`, `pp_size` or `nnodes`")

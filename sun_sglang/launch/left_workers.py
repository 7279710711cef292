"""The workers of a deployment whose launcher was killed: which of them run, and their end without a launcher."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.launch.claim import claim
from sun_sglang.launch.places.ray.place import RayPlace
from sun_sglang.launch.state import Phase, ProcessState, read_state, write_state
from sun_sglang.topology import PlaceSettings


async def left_workers(run_dir: Path) -> tuple[str, ...]:
    """Return the names of the workers that run, in order.

    Raises:
        UserError: the cluster cannot be reached from here.
        LaunchError: the record of the workers cannot be read.
    """
    place = RayPlace(run_dir, PlaceSettings(kind="ray"))
    await place.open()
    return await place.running_workers()


async def end_left_workers(run_dir: Path) -> None:
    """End every worker of the deployment, and note the deployment as stopped.

    Raises:
        UserError: the cluster cannot be reached from here.
        LaunchError: another launcher uses the directory, or Ray does not answer.
    """
    with claim(run_dir):
        place = RayPlace(run_dir, PlaceSettings(kind="ray"))
        await place.open()
        # none of them is planned, so all are ended
        await place.adopt()
        await place.close()
        state = read_state(run_dir)
        if state is not None:
            ended = tuple(map(_stopped, state.processes))
            write_state(run_dir, state.model_copy(update={"phase": Phase.STOPPED, "processes": ended}))


def _stopped(state: ProcessState) -> ProcessState:
    return state.model_copy(update={"phase": Phase.STOPPED, "pid": 0})

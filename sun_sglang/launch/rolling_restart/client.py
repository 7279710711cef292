"""Begin and end a restart, for the `sun` command."""

from __future__ import annotations

from collections.abc import Callable

from sun_sglang.errors import LaunchError
from sun_sglang.launch.control.client import ControlClient
from sun_sglang.launch.rolling_restart.messages import EVENTS, RESTART_PATH, Event, Outcome, RestartRequest


async def restart_workers(client: ControlClient, request: RestartRequest, show: Callable[[Event], None]) -> Outcome:
    """Let the launcher restart workers, and return the outcome.

    Args:
        client: the open control socket.
        request: which workers.
        show: called with each event, the outcome included; repeated where nothing happens.

    Raises:
        UserError: the launcher refuses the request; nothing was changed.
        LaunchError: another restart is under way, or the launcher is gone.
    """
    last: Event | None = None
    async for line in client.stream(RESTART_PATH, request):
        last = EVENTS.validate_json(line)
        show(last)
    if not isinstance(last, Outcome):
        raise LaunchError("the launcher ended before the restart had ended, and its workers with it")
    return last


async def cancel_restart(client: ControlClient) -> None:
    """End the restart under way after the present worker.

    Raises:
        LaunchError: none is under way, or the launcher is gone.
    """
    await client.call("DELETE", RESTART_PATH)

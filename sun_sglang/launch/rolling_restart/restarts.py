"""The launcher's commands about restarts: at most one runs at a time, and it outlives the client that began it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack

from aiohttp import web

from sun_sglang.errors import LaunchError
from sun_sglang.launch.control.server import read_body
from sun_sglang.launch.rolling_restart.launched import Launched
from sun_sglang.launch.rolling_restart.messages import RESTART_PATH, Event, Outcome, RestartRequest
from sun_sglang.launch.rolling_restart.operation import RollingRestart
from sun_sglang.launch.state import Phase

# shorter than a client's limit between two lines
_REPEAT_S = 5.0


class Restarts:
    """Runs the restarts of one deployment.

    Args:
        launched: the deployment.
    """

    def __init__(self, launched: Launched) -> None:
        self._launched = launched
        self._running: RollingRestart | None = None
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether a restart is under way."""
        return self._running is not None

    def routes(self) -> Iterable[web.RouteDef]:
        """Return the commands, for the control socket."""
        return (web.post(RESTART_PATH, self._begin), web.delete(RESTART_PATH, self._cancel))

    async def close(self) -> None:
        """End the restart under way, since the deployment ends; begin no other."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _begin(self, http: web.Request) -> web.StreamResponse:
        """POST: restart workers, and answer with a line for each event. A client that leaves cancels the restart."""
        request = await read_body(http, RestartRequest)
        self._require_free()
        events: asyncio.Queue[Event] = asyncio.Queue()
        client = self._launched.connect()
        restart = self._running = RollingRestart(request, self._launched, client, events.put_nowait)
        async with AsyncExitStack() as stack:
            stack.callback(self._end)
            await stack.enter_async_context(client)
            await restart.prepare()
            self._require_ready()
            owned = stack.pop_all()
        self._task = asyncio.create_task(self._run(restart, owned, events))
        try:
            return await _answer(http, events)
        finally:
            # no effect on one that has ended
            restart.cancel()

    async def _cancel(self, _: web.Request) -> web.Response:
        """DELETE: end the restart under way after the present worker."""
        if self._running is None:
            raise LaunchError("no restart is under way")
        self._running.cancel()
        return web.Response(status=204)

    def _require_free(self) -> None:
        """Raise unless a restart may begin.

        Raises:
            LaunchError: another one is under way, or the deployment is not ready.
        """
        if self._running is not None:
            now = self._running.present
            at = f" (`{now.worker}`: {now.step})" if now.worker else ""
            raise LaunchError(f"another restart is under way{at}; wait until it has ended")
        self._require_ready()

    def _require_ready(self) -> None:
        phase = Phase.STOPPING if self._closed else self._launched.phase()
        if phase != Phase.READY:
            raise LaunchError(f"the deployment is {phase}; its workers can be restarted while it is ready")

    def _end(self) -> None:
        self._running = None

    async def _run(self, restart: RollingRestart, owned: AsyncExitStack, events: asyncio.Queue[Event]) -> None:
        async with owned:
            try:
                outcome = await restart.run()
            except asyncio.CancelledError:
                outcome = restart.outcome("the deployment is stopping, and its workers end")
        events.put_nowait(outcome)


async def _answer(http: web.Request, events: asyncio.Queue[Event]) -> web.StreamResponse:
    """Send events as lines until the outcome. The last line is repeated while nothing happens."""
    reply = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await reply.prepare(http)
    event: Event | None = None
    while not isinstance(event, Outcome):
        try:
            async with asyncio.timeout(_REPEAT_S):
                event = await events.get()
        except TimeoutError:
            pass
        if event is not None:
            await reply.write(event.model_dump_json().encode() + b"\n")
    await reply.write_eof()
    return reply

"""The modules of a worker: which it was given, which of them are in host memory, and which requests use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sun_sglang.contracts.module import NOT_HELD
from sun_sglang.errors import RequestError, SunError


class Copies(Protocol):
    """The part of `HostCopies` that the keeper uses."""

    def hold(self, revision: str, source: Path) -> None:
        """See `HostCopies.hold`."""

    def release(self, revision: str) -> None:
        """See `HostCopies.release`."""


@dataclass(eq=False, slots=True)
class KeptModule:
    """A module that a worker was given.

    Attributes:
        revision: revision of its weights.
        directory: directory from which it is copied.
        size: bytes of its weights.
        held: whether it is in host memory.
        users: requests that use it now.
        last_use: number of the last request for it, or of its addition.
        gives_way: whether further requests wait until it has left host memory, since another module has no room.
    """

    revision: str
    directory: Path
    size: int
    held: bool = False
    users: int = 0
    last_use: int = 0
    gives_way: bool = False


class ModuleKeeper:
    """Holds modules in host memory, at most `host_bytes` of them, and never less than one.

    A module that a request needs and that is not in host memory is copied, and the least recently used ones without
    requests give way. The request reaches the scheduler after that. While all others have requests, it waits, and the
    least recently used one gets no further requests until it has given way.

    Args:
        copies: makes the copies.
        own: the model with which the worker started; it is copied with the first module.
        host_bytes: see above.
        publish: called with the own revision and the revisions in host memory when they change.
    """

    def __init__(
        self, copies: Copies, own: KeptModule, host_bytes: int, publish: Callable[[str, Iterable[str]], None]
    ) -> None:
        self._copies = copies
        self._own = own
        self._host_bytes = host_bytes
        self._publish = publish
        self._modules: dict[str, KeptModule] = {}
        # forgotten, with requests that still use them
        self._leaving: dict[str, KeptModule] = {}
        self._uses = 0
        self._adding = asyncio.Lock()
        self._copying = asyncio.Lock()
        self._changed = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def own(self) -> str:
        """Revision of the model with which the worker started."""
        return self._own.revision

    @property
    def held(self) -> list[KeptModule]:
        """The modules in host memory."""
        return [module for module in (*self._modules.values(), *self._leaving.values()) if module.held]

    @property
    def is_empty(self) -> bool:
        """Whether the worker was given no module, and serves its own model alone."""
        return not self._modules

    def has(self, revision: str) -> bool:
        """Return whether the worker was given a module, or started with it."""
        return revision in self._modules or revision == self.own

    async def add(self, module: KeptModule) -> None:
        """Copy a module into host memory. A module that the worker has stays as it is.

        Raises:
            CheckpointError: it cannot be copied; the worker's modules stay as they were.
        """
        async with self._adding:
            # a worker that gives up its own weights must be able to have them again
            for one in (self._own, module):
                known = self._modules.get(one.revision) or self._leaving.pop(one.revision, None) or one
                await self._hold_whole(known)
                self._modules[known.revision] = known
                self._note_use(known)
                self._report()

    async def remove(self, revision: str) -> bool:
        """Forget a module once its requests have ended. Return False if the worker was not given it."""
        module = self._modules.get(revision)
        if module is None or module.revision == self.own:
            return False
        # from now on requests for it are refused
        self._leaving[revision] = self._modules.pop(revision)
        while module.users:
            await self._changed.wait()
        async with self._copying:
            # it may have been given again meanwhile
            if self._leaving.pop(revision, None) is not None and module.held:
                await self._release(module)
        self._report()
        return True

    @asynccontextmanager
    async def use(self, revision: str | None) -> AsyncIterator[None]:
        """Keep a module in host memory for a request, while the block runs.

        Args:
            revision: the module; None for the worker's own model.

        Raises:
            RequestError: the worker does not have it, or cannot copy it again.
        """
        if self.is_empty and revision in (None, self.own):
            yield
            return
        while (module := self._modules.get(revision or self.own)) is not None and module.gives_way:
            await self._changed.wait()
        if module is None:
            raise RequestError(400, NOT_HELD.format(revision=revision), code="module_not_held")
        module.users += 1
        try:
            if not module.held:
                await self._hold_for_request(module)
            self._note_use(module)
            yield
        finally:
            module.users -= 1
            self._wake()

    async def _hold_for_request(self, module: KeptModule) -> None:
        try:
            await self._hold_whole(module)
        except SunError as e:
            if module.revision != self.own:
                # the router gives it again, and learns why that fails
                self._modules.pop(module.revision, None)
            message = f"{NOT_HELD.format(revision=module.revision)} any more: {e}"
            raise RequestError(400, message, code="module_not_held") from e
        self._report()

    async def _hold_whole(self, module: KeptModule) -> None:
        """Hold a module; a copy that has begun is ended, although the caller may be cancelled meanwhile."""
        copying = asyncio.ensure_future(self._hold(module))
        self._background.add(copying)
        copying.add_done_callback(self._background.discard)
        await asyncio.shield(copying)

    async def _hold(self, module: KeptModule) -> None:
        async with self._copying:
            if module.held:
                return
            await self._make_room(module.size)
            await asyncio.to_thread(self._copies.hold, module.revision, module.directory)
            module.held = True

    async def _make_room(self, size: int) -> None:
        """Release modules until there is room for one more, or none is held."""
        while self.held and sum(other.size for other in self.held) + size > self._host_bytes:
            free = [other for other in self.held if not other.users]
            if free:
                await self._release(_least_recent(free))
            else:
                if not any(other.gives_way for other in self.held):
                    # else modules that always have requests would keep all others out
                    _least_recent(self.held).gives_way = True
                await self._changed.wait()
        for other in self.held:
            other.gives_way = False
        self._wake()

    async def _release(self, module: KeptModule) -> None:
        module.held = module.gives_way = False
        # the scheduler must not choose a module whose copy is gone
        self._report()
        await asyncio.to_thread(self._copies.release, module.revision)

    def _note_use(self, module: KeptModule) -> None:
        self._uses += 1
        module.last_use = self._uses

    def _report(self) -> None:
        self._publish(self.own, [module.revision for module in self.held])

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _least_recent(modules: Iterable[KeptModule]) -> KeptModule:
    return min(modules, key=lambda module: module.last_use)

"""Modules in host memory: held for requests, evicted without them, refused where the worker lacks them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sun_sglang.errors import CheckpointError, RequestError
from sun_sglang.worker.modules.keeper import KeptModule, ModuleKeeper

OWN, A, B, C = (letter * 16 for letter in "0abc")


class Copies:
    """Copies that a test lets go on."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.made: list[str] = []
        self.broken: set[str] = set()
        self.on_release: Callable[[], None] = lambda: None
        self.free = threading.Event()
        self.free.set()

    def hold(self, revision: str, source: Path) -> None:
        assert self.free.wait(30)
        if revision in self.broken:
            raise CheckpointError(f"{source}: is broken")
        assert revision not in self.held
        self.held.append(revision)
        self.made.append(revision)

    def release(self, revision: str) -> None:
        self.held.remove(revision)
        self.on_release()


class Setup:
    def __init__(self, host_bytes: int = 1000) -> None:
        self.copies = Copies()
        self.published: list[str] = []
        own = KeptModule(OWN, Path("/own"), 10)
        self.keeper = ModuleKeeper(self.copies, own, host_bytes, self._publish)

    def _publish(self, own: str, held: object) -> None:
        assert own == OWN
        self.published = sorted(held)  # type: ignore[call-overload]

    async def add(self, *revisions: str) -> None:
        for revision in revisions:
            await self.keeper.add(KeptModule(revision, Path("/", revision), 10))


async def test_worker_without_modules_serves_its_own_and_copies_nothing() -> None:
    setup = Setup()
    async with setup.keeper.use(None), setup.keeper.use(OWN):
        assert setup.copies.made == []
    assert setup.keeper.is_empty


async def test_first_module_copies_the_own_model_too() -> None:
    setup = Setup()
    await setup.add(A)
    assert setup.copies.made == [OWN, A]
    assert setup.published == [OWN, A]
    await setup.add(A)
    assert setup.copies.made == [OWN, A]


async def test_module_that_was_not_given_is_refused() -> None:
    setup = Setup()
    await setup.add(A)
    with pytest.raises(RequestError, match=f"this worker does not have the module {B}"):
        async with setup.keeper.use(B):
            pass


async def test_bound_evicts_the_least_recently_used_module_without_requests() -> None:
    setup = Setup(host_bytes=30)
    await setup.add(A, B)
    async with setup.keeper.use(None):
        pass
    async with setup.keeper.use(A):
        await setup.add(C)
        # neither A, which has a request, nor the own model, which was used later
        assert setup.published == sorted([OWN, A, C])
    async with setup.keeper.use(B):
        assert setup.published == sorted([OWN, B, C])
        assert sorted(setup.copies.held) == setup.published


async def test_module_waits_until_another_has_no_requests() -> None:
    setup = Setup(host_bytes=20)
    await setup.add(A)
    async with setup.keeper.use(None):
        inner = setup.keeper.use(A)
        await inner.__aenter__()
        waiting = asyncio.create_task(setup.add(B))
        await asyncio.sleep(0)
        assert B not in setup.copies.made
        await inner.__aexit__(None, None, None)
        await waiting
    assert sorted(setup.copies.held) == [OWN, B]


async def test_one_module_is_kept_whatever_the_bound() -> None:
    setup = Setup(host_bytes=1)
    await setup.add(A)
    assert setup.copies.held == [A]
    async with setup.keeper.use(None):
        assert setup.copies.held == [OWN]


async def test_request_that_leaves_while_its_module_is_copied_does_not_stop_the_copy() -> None:
    setup = Setup(host_bytes=20)
    await setup.add(A, B)
    setup.copies.free.clear()

    async def ask() -> None:
        async with setup.keeper.use(A):
            pytest.fail("it was cancelled")

    leaving = asyncio.create_task(ask())
    while not leaving.done():
        leaving.cancel()
        await asyncio.sleep(0)
    setup.copies.free.set()
    async with setup.keeper.use(A):
        assert A in setup.copies.held
    assert setup.copies.made.count(A) == 2, "once when it was added, once for both requests"


async def test_module_that_cannot_be_copied_again_is_given_up() -> None:
    setup = Setup(host_bytes=20)
    await setup.add(A, B)
    setup.copies.broken.add(A)
    with pytest.raises(RequestError, match=f"does not have the module {A} any more: /{A}: is broken"):
        async with setup.keeper.use(A):
            pass
    assert not setup.keeper.has(A)
    with pytest.raises(CheckpointError):
        await setup.add(A)
    async with setup.keeper.use(B):
        pass


async def test_removed_module_refuses_requests_and_waits_for_those_that_it_has() -> None:
    setup = Setup()
    await setup.add(A)
    async with setup.keeper.use(A):
        removal = asyncio.create_task(setup.keeper.remove(A))
        await asyncio.sleep(0)
        with pytest.raises(RequestError):
            async with setup.keeper.use(A):
                pass
        assert A in setup.copies.held
    assert await removal
    assert A not in setup.copies.held
    assert not await setup.keeper.remove(A)


async def test_module_that_several_routers_give_at_once_is_copied_once() -> None:
    setup = Setup()
    await asyncio.gather(*(setup.add(A) for _ in range(3)))
    assert setup.copies.made == [OWN, A]


async def test_module_that_is_given_again_while_it_leaves_stays() -> None:
    setup = Setup()
    await setup.add(A)
    async with setup.keeper.use(A):
        removal = asyncio.create_task(setup.keeper.remove(A))
        await asyncio.sleep(0)
        await setup.add(A)
    assert await removal
    async with setup.keeper.use(A):
        assert setup.copies.made == [OWN, A]
    assert await setup.keeper.remove(A)
    assert setup.copies.held == [OWN]


async def test_own_model_is_never_removed() -> None:
    setup = Setup()
    await setup.add(A)
    assert not await setup.keeper.remove(OWN)


async def test_scheduler_is_told_that_a_module_leaves_before_its_copy_is_gone() -> None:
    setup = Setup(host_bytes=20)
    await setup.add(A)
    seen: list[list[str]] = []
    setup.copies.on_release = lambda: seen.append(setup.published)
    async with setup.keeper.use(None):
        # A gives way to B
        await setup.add(B)
    await setup.keeper.remove(B)
    assert seen == [[OWN], [OWN]]


async def test_modules_that_always_have_requests_keep_no_other_out() -> None:
    setup = Setup(host_bytes=20)
    await setup.add(A, B)
    ended: dict[str, asyncio.Event] = {}
    began: list[str] = []

    async def ask(name: str, revision: str) -> None:
        async with setup.keeper.use(revision):
            began.append(name)
            await ended.setdefault(name, asyncio.Event()).wait()

    async def settle() -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    # a module with a request leaves only after it, and the next request of each comes before that
    await setup.keeper.remove(A)
    await setup.add(A)
    async with asyncio.TaskGroup() as group:
        for name, revision in (("a1", A), ("own1", OWN)):
            group.create_task(ask(name, revision))
            while name not in began:
                await asyncio.sleep(0)
        group.create_task(ask("b", B))
        await settle()
        for name, revision in (("a2", A), ("own2", OWN)):
            group.create_task(ask(name, revision))
        await settle()
        assert began == ["a1", "own1", "own2"], "A was used before the own model"
        ended["a1"].set()
        while "b" not in began:
            await asyncio.sleep(0)
        for name in ("own1", "own2", "b"):
            ended[name].set()
        while "a2" not in began:
            await asyncio.sleep(0)
        ended["a2"].set()


async def test_request_that_waits_for_a_module_that_gives_way_is_refused_once_it_is_removed() -> None:
    setup = Setup(host_bytes=20)
    await setup.add(A)
    own, used = setup.keeper.use(None), setup.keeper.use(A)
    await used.__aenter__()
    await own.__aenter__()
    adding = asyncio.create_task(setup.add(B))
    removing = asyncio.create_task(setup.keeper.remove(A))

    async def ask() -> None:
        async with setup.keeper.use(A):
            pytest.fail("it was removed")

    await asyncio.sleep(0)
    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    await used.__aexit__(None, None, None)
    with pytest.raises(RequestError):
        await asking
    await asyncio.gather(adding, removing)
    await own.__aexit__(None, None, None)
    assert sorted(setup.copies.held) == [OWN, B]

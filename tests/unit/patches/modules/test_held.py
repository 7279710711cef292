"""A request to a prefill worker waits for its module in host memory, or is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from sun_sglang.contracts.module import module_namespace
from sun_sglang.errors import RequestError
from sun_sglang.patches.modules.held import hold_module

A = "a" * 16
WITH_A = module_namespace("pool@weights", A)


class Keeper:
    def __init__(self) -> None:
        self.used: list[str | None] = []

    @asynccontextmanager
    async def use(self, revision: str | None) -> AsyncIterator[None]:
        self.used.append(revision)
        try:
            yield
        finally:
            self.used.remove(revision)


async def generate(manager: Any, obj: Any, request: object = None) -> AsyncIterator[Any]:
    yield list(getattr(manager, "sun_modules", Keeper()).used)


def manager(role: str, keeper: Keeper | None = None) -> Any:
    found = SimpleNamespace(server_args=SimpleNamespace(disaggregation_mode=role))
    if keeper is not None:
        found.sun_modules = keeper
    return found


async def answers(manager: Any, extra_key: object) -> list[Any]:
    return [one async for one in hold_module(generate, manager, SimpleNamespace(extra_key=extra_key), request=None)]


@pytest.mark.parametrize(
    ("extra_key", "used"),
    [(WITH_A, [A]), ("pool@weights", [None]), (None, [None]), ([WITH_A, WITH_A], [A])],
)
async def test_module_is_used_while_a_request_runs(extra_key: object, used: list[str | None]) -> None:
    keeper = Keeper()
    assert await answers(manager("prefill", keeper), extra_key) == [used]
    assert keeper.used == []


async def test_worker_that_keeps_no_modules_refuses_a_request_for_one() -> None:
    with pytest.raises(RequestError, match=f"this worker does not have the module {A}"):
        await answers(manager("prefill"), WITH_A)
    assert await answers(manager("prefill"), "pool@weights") == [[]]


@pytest.mark.parametrize("other", [module_namespace("pool@weights", "b" * 16), "pool@weights", None])
async def test_prompts_of_several_modules_are_refused(other: str | None) -> None:
    keeper = Keeper()
    with pytest.raises(RequestError, match="need several modules"):
        await answers(manager("prefill", keeper), [WITH_A, other])
    assert keeper.used == []


async def test_adapter_on_a_module_is_refused() -> None:
    keeper = Keeper()
    for extra_key, is_refused in ((WITH_A, True), ("pool@weights", False)):
        running = hold_module(
            generate, manager("prefill", keeper), SimpleNamespace(extra_key=extra_key, lora_path="style")
        )
        if is_refused:
            with pytest.raises(RequestError, match="name an adapter or a module"):
                await anext(running)
        else:
            assert await anext(running) == [None]
        await running.aclose()


async def test_decode_worker_decodes_for_every_module() -> None:
    assert await answers(manager("decode"), WITH_A) == [[]]


async def test_request_whose_client_leaves_gives_its_module_up() -> None:
    keeper = Keeper()
    running = hold_module(generate, manager("prefill", keeper), SimpleNamespace(extra_key=WITH_A))
    assert await anext(running) == [A]
    await running.aclose()
    assert keeper.used == []

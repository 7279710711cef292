"""Let a request to a prefill worker wait until its module is in host memory; refuse one for a module it does not have.

The hook runs in the HTTP process, before the request reaches a scheduler. So a scheduler finds every module that a
request needs, and a module gives way in host memory only while no request uses it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

from sun_sglang.contracts.module import NOT_HELD, module_in
from sun_sglang.errors import RequestError
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

KEEPER: str = "sun_modules"
"""Attribute of SGLang's `TokenizerManager`: the worker's `ModuleKeeper`."""


async def hold_module(generate: Callable[..., AsyncIterator[Any]], manager: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a request while its module is in host memory.

    Raises:
        RequestError: the worker does not have the module, the prompts need several, or one with an adapter; SGLang
            answers 400 with the message.
    """
    request = args[0] if args else kwargs["obj"]
    async with AsyncExitStack() as uses:
        if manager.server_args.disaggregation_mode == "prefill":
            keeper = getattr(manager, KEEPER, None)
            modules = modules_of(request)
            if len(modules) > 1:
                # with one in host memory it could wait for ever for room for another, and all other requests with it
                raise RequestError(400, "the prompts of a request need several modules; send a request for each")
            if modules != {None} and getattr(request, "lora_path", None):
                # SGLang's scheduler appends the adapter to `extra_key`, where another module would be read then
                raise RequestError(400, "an adapter changes the worker's own model; name an adapter or a module")
            for revision in modules:
                if keeper is not None:
                    await uses.enter_async_context(keeper.use(revision))
                elif revision is not None:
                    raise RequestError(400, NOT_HELD.format(revision=revision), code="module_not_held")
        async for response in generate(manager, *args, **kwargs):
            yield response


def modules_of(request: Any) -> set[str | None]:
    """Return the modules of a request's answers; None stands for the worker's own model."""
    keys = getattr(request, "extra_key", None)
    return {module_in(key) for key in (keys if isinstance(keys, list) else [keys])} or {None}


PATCH = Patch(
    name="held",
    target="sglang.srt.managers.tokenizer_manager.TokenizerManager.generate_request",
    parameters=(("self", "obj", "request"),),
    kind="around",
    hook=hold_module,
    why="a scheduler would receive requests for modules that are not in host memory",
    versions=on("holds a request's module in host memory, and refuses a request whose module the worker lacks"),
    removable_when="when SGLang serves several checkpoints of one architecture by turns",
)

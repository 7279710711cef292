"""Read the adapters of a topology's tasks, and compare each with the pools of its task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sun_sglang.checkpoint.adapter.base_fit import read_base_layers, require_fits
from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.checkpoint.tokenizer_digest import chat_template_digest, tokenizer_digest
from sun_sglang.contracts.adapter import FINGERPRINT_FILE, AdapterRef
from sun_sglang.errors import CheckpointError, IdentityError
from sun_sglang.launch.planning.pools import Pools, ResolvedPool
from sun_sglang.launch.planning.task_decoder import require_decoder
from sun_sglang.topology import Topology

_OTHER_KV = "prefill without an adapter; name a decode pool with the base's weights"


def read_task_adapters(topology: Topology) -> dict[str, AdapterRef]:
    """Return the adapter of each task that has one, by task.

    Raises:
        CheckpointError: an adapter cannot be read, or SGLang would compute otherwise with it than PEFT; names the task.
    """
    found: dict[str, AdapterRef] = {}
    for name, task in topology.tasks.items():
        if task.adapter is not None:
            try:
                found[name] = read_adapter(Path(task.adapter))
            except CheckpointError as e:
                raise CheckpointError(f"tasks.{name}.adapter: {e}") from e
    return found


def adapter_notes(topology: Topology, pools: Pools) -> Iterator[str]:
    """Check that each adapter is one of its prefill pool's base and was tuned for its decode pool's decoder.

    Yields a sentence for each pool whose layers could not be compared, and for each adapter with a tokenizer or a chat
    template of its own: serving does not use them.

    Raises:
        IdentityError: an adapter is one of another base, or was tuned for another decoder.
        CheckpointError: an adapter changes layers that the base does not have.
    """
    for pool in pools.values():
        for name, ref in pool.adapters.items():
            _require_base(name, ref, pool)
            task = topology.tasks[name]
            if not task.any_decoder:
                require_decoder(f"tasks.{name}.adapter", ref, pools[task.decode], _OTHER_KV)
            yield from _prompt_notes(name, ref, pool)
        if pool.adapters:
            yield from _compare_layers(pool)


def _require_base(task: str, ref: AdapterRef, pool: ResolvedPool) -> None:
    if pool.identity is None:
        return
    vocabulary = pool.identity.vocab_size
    if ref.fingerprint is not None and (token := max(ref.fingerprint.tokens)) >= vocabulary:
        file = Path(ref.directory) / FINGERPRINT_FILE
        raise IdentityError(
            f"tasks.{task}.adapter: {file}: has the token {token}, and the vocabulary of `{pool.name}` has "
            f"{vocabulary} tokens; write it again with `sun fingerprint`"
        )
    if not ref.base or ref.base == pool.identity.weights:
        return
    raise IdentityError(
        f"tasks.{task}.adapter: {ref.directory}: was tuned on the base with weights {ref.base}, and `{pool.name}` has "
        f"weights {pool.identity.weights}; name the prefill pool of its base, or tune it again on this one"
    )


def _prompt_notes(task: str, ref: AdapterRef, pool: ResolvedPool) -> Iterator[str]:
    if pool.identity is None:
        return
    directory = Path(ref.directory)
    own: dict[str, tuple[str, str]] = {}
    try:
        if template := chat_template_digest(directory):
            own["chat template"] = (template, pool.identity.chat_template)
        if (directory / "tokenizer.json").exists():
            own["tokenizer"] = (tokenizer_digest(directory), pool.identity.tokenizer)
    except CheckpointError as e:
        raise CheckpointError(f"tasks.{task}.adapter: {e}; remove it: serving uses the base's") from e
    for kind, (of_adapter, of_pool) in own.items():
        if of_adapter != of_pool:
            yield (
                f"tasks.{task}.adapter: {directory} holds another {kind} than `{pool.name}` serves with: an adapter "
                "that was tuned with it gets other prompts here."
            )


def _compare_layers(pool: ResolvedPool) -> Iterator[str]:
    if pool.checkpoint is None or pool.checkpoint.directory is None or not pool.kind.needs_checkpoint:
        return
    try:
        base = read_base_layers(pool.checkpoint.directory)
    except CheckpointError as e:
        raise CheckpointError(f"{pool.where}.model: {e}") from e
    if not base.sizes:
        yield f"`{pool.name}`: its adapters were not compared with its layers: its tensors have other names."
        return
    for task, ref in pool.adapters.items():
        try:
            require_fits(Path(ref.directory), base)
        except CheckpointError as e:
            raise CheckpointError(f"tasks.{task}.adapter: {e}") from e

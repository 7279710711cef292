"""What must be equal in systems that are compared. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.launch.planning.pools import ResolvedPool

_DTYPES = {"half": "float16", "float": "float32"}


@dataclass(frozen=True)
class Facts:
    """What must be equal in systems that are compared.

    Attributes:
        tasks: their tasks, in the order of the file.
        tokenizers: digests of their tokenizers, each with a model that has it; none where no model is here.
        dtypes: the dtypes in which their models are computed; none where they are unknown.
    """

    tasks: tuple[str, ...]
    tokenizers: Mapping[str, str]
    dtypes: frozenset[str]


def facts_of(tasks: Iterable[str], pools: Iterable[ResolvedPool]) -> Facts:
    """Return the facts of a system.

    Args:
        tasks: its tasks.
        pools: its pools, or its servers.
    """
    pools = tuple(pools)
    tokenizers = {pool.identity.tokenizer: pool.model for pool in pools if pool.identity is not None}
    return Facts(tuple(tasks), tokenizers, frozenset(dtype for pool in pools if (dtype := _dtype(pool))))


def require_comparable(systems: Mapping[str, Facts]) -> None:
    """Raise unless systems serve the same tasks with the same tokenizer in the same dtype.

    Args:
        systems: the facts of each system by name.

    Raises:
        BenchError: names the first difference, with both values.
    """
    for (one, left), (other, right) in pairwise(systems.items()):
        problem = (
            _difference("tasks", sorted(left.tasks), sorted(right.tasks))
            or _difference("dtypes", sorted(left.dtypes), sorted(right.dtypes))
            or _difference("tokenizers", sorted(left.tokenizers), sorted(right.tokenizers), left, right)
        )
        if problem:
            raise BenchError(f"{one} and {other} cannot be compared: {problem}")


def _difference(
    what: str, left: list[str], right: list[str], one: Facts | None = None, other: Facts | None = None
) -> str:
    """Return a difference in words; empty where there is none, or where one side is unknown."""
    if left == right or not left or not right:
        return ""
    return f"different {what}: {_shown(left, one)} and {_shown(right, other)}"


def _shown(values: list[str], facts: Facts | None) -> str:
    if facts is None:
        return ", ".join(f"`{value}`" for value in values)
    return ", ".join(f"`{value}` ({facts.tokenizers[value]})" for value in values)


def _dtype(pool: ResolvedPool) -> str | None:
    """Return the dtype in which a pool's model is computed; None where it is unknown, or nothing is computed."""
    if not pool.kind.needs_checkpoint:
        return None
    flags: dict[str, Any] = {**pool.dtype, **pool.flags}
    given = flags.get("dtype")
    if given not in (None, "auto"):
        return _DTYPES.get(str(given), str(given))
    identity = pool.identity
    return identity.kv_dtype if identity is not None and identity.kv_cache_dtype == "auto" else None

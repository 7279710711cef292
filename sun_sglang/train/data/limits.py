"""What a model can take: positions, embeddings, and the tokens at which it ends an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sun_sglang.checkpoint.json_file import read_json


@dataclass(frozen=True)
class ModelLimits:
    """The limits that both modules of a recipe share.

    Attributes:
        positions: most tokens of a prompt and its answer; None where the configuration has no such number.
        embeddings: number of token ids; None where the configuration has no such number.
        end_tokens: ids at which generation ends, by the model's configuration; empty where it has none.
    """

    positions: int | None = None
    embeddings: int | None = None
    end_tokens: frozenset[int] = frozenset()


def read_limits(base: Path, decoder: Path) -> ModelLimits:
    """Return the limits of a pair of checkpoints.

    Args:
        base: directory of the model that is tuned; its end tokens count.
        decoder: directory of the other module.

    Raises:
        CheckpointError: a `config.json` cannot be read.
    """
    configs = [read_json(base / "config.json"), read_json(decoder / "config.json")]
    generation = base / "generation_config.json"
    ends = [configs[0], _text(configs[0]), read_json(generation) if generation.exists() else {}]
    return ModelLimits(
        _least(_positions(_text(config)) for config in configs),
        _least(_text(config).get("vocab_size") for config in configs),
        frozenset(token for config in ends for token in _ids(config.get("eos_token_id"))),
    )


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def _positions(config: Mapping[str, Any]) -> int | None:
    """Return the positions of a configuration; scaled RoPE multiplies them, also where they are the scaled ones."""
    positions = config.get("max_position_embeddings")
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    factor = scaling.get("factor") if isinstance(scaling, Mapping) else None
    if not isinstance(positions, int):
        return None
    return round(positions * max(1.0, factor)) if isinstance(factor, int | float) else positions


def _least(numbers: Any) -> int | None:
    return min((number for number in numbers if isinstance(number, int)), default=None)


def _ids(value: Any) -> list[int]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int)]

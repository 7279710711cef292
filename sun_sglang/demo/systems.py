"""The demo's checkpoints and the systems made of them: what each is tuned from, and which two serve a task. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from sun_sglang.contracts.scheme import SCHEMES, Side

BASE = "base"
QUANTIZED_BASE = "base-w4a16"
QSUN = "qsun"
"""The tuning of a SUN module for the quantised base. All other tunings have the name of their scheme."""
GROUP = 32
"""Weights of the quantised base that share a scale. Torch's 4-bit kernel takes groups from this size on."""
# the schemes that are compared, with the side that makes the first token
FIRST_TOKEN: Mapping[str, Side] = MappingProxyType(
    {"full": "prefill", "prefill_only": "prefill", "decode_only": "decode"}
)
TUNINGS = (*FIRST_TOKEN, QSUN)


class Pair(NamedTuple):
    """The checkpoints of a system that serves a task, by the names of their directories.

    Attributes:
        prefill: runs the prompts.
        decode: continues.
        first_token: the side that makes the first token.
    """

    prefill: str
    decode: str
    first_token: Side = "prefill"


class Origin(NamedTuple):
    """What a checkpoint is tuned from, by the names of directories.

    Attributes:
        scheme: name of the tuning scheme.
        start: the weights that tuning starts from.
        other: the weights of the other side; the same as `start` for one module on both sides.
    """

    scheme: str
    start: str = BASE
    other: str = BASE


def origin(task: str, tuning: str) -> Origin:
    """Return what a task's checkpoint is tuned from.

    Args:
        task: name of the task.
        tuning: one of `TUNINGS`.
    """
    return Origin("prefill_only", task, QUANTIZED_BASE) if tuning == QSUN else Origin(tuning)


def checkpoint_name(task: str, tuning: str) -> str:
    """Return the directory name of a task's checkpoint: `math` for the shared decoder, else with the tuning's name."""
    if tuning == QSUN:
        return f"{task}-{QUANTIZED_BASE.removeprefix(f'{BASE}-')}"
    return f"{task}-{tuning.replace('_', '-')}" if SCHEMES[tuning].trains_decoder else task


def pairs(task: str) -> dict[str, Pair]:
    """Return the systems that are compared on a task.

    The base, full fine-tuning, naive sharing, SUN, PrefillShare, SUN with a quantised decoder as it is, and QSUN.
    """
    full, tuned = checkpoint_name(task, "full"), checkpoint_name(task, "prefill_only")
    return {
        "base": Pair(BASE, BASE),
        "full": Pair(full, full),
        "naive": Pair(full, BASE),
        "sun": Pair(tuned, BASE),
        "prefillshare": Pair(BASE, checkpoint_name(task, "decode_only"), FIRST_TOKEN["decode_only"]),
        "sun_quantized": Pair(tuned, QUANTIZED_BASE),
        "qsun": Pair(checkpoint_name(task, QSUN), QUANTIZED_BASE),
    }


def systems_with(task: str, tuning: str) -> list[str]:
    """Return the names of the systems in `pairs` with a checkpoint of a tuning; of `qsun`, with the quantised base."""
    made = {checkpoint_name(task, tuning), *([QUANTIZED_BASE] if tuning == QSUN else [])}
    return [name for name, pair in pairs(task).items() if made & {pair.prefill, pair.decode}]

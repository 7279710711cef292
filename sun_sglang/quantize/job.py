"""What `sun quantize` and the process that quantizes tell each other: one job, then events as JSON lines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from sun_sglang.strict import Strict

Algorithm = Literal["awq", "gptq", "rtn"]
Stage = Literal["load", "reference", "calibrate", "save", "measure"]
Tokens = tuple[int, ...]

BITS = 4
LEFT_WHOLE = ("lm_head",)
"""Names of the linear layers that keep full precision."""


class Job(Strict):
    """A quantization.

    Attributes:
        model: directory of the checkpoint.
        output: directory to write; does not exist.
        algorithm: `rtn` rounds to nearest and needs no calibration.
        group_size: input values that share one scale.
        calibration: samples as token ids.
        held_out: samples as token ids, for the measurement alone.
        threads: CPU threads; 0 for torch's choice.
        seed: seed of torch.
    """

    model: str
    output: str
    algorithm: Algorithm
    group_size: int
    calibration: tuple[Tokens, ...] = ()
    held_out: tuple[Tokens, ...] = ()
    threads: int = 0
    seed: int = 0


class Progress(Strict):
    """`done` of `total` parts of a stage are done."""

    kind: Literal["progress"] = "progress"
    stage: Stage
    done: int
    total: int


class Quality(Strict):
    """How far the written checkpoint is from its source on the held-out samples.

    Attributes:
        layers: by decoder layer: the norm of the difference between the two layers' outputs on the source's hidden
            states, divided by the norm of what the source's layer adds to them.
        logits: norm of the difference of the logits, divided by their norm.
        divergence: mean KL divergence of the next token's distribution from the source's, in nats.
        agreement: share of positions at which both have the same most likely token.
        positions: number of positions compared.
    """

    layers: tuple[float, ...]
    logits: float
    divergence: float
    agreement: float
    positions: int


class Finished(Strict):
    """The checkpoint is written; `quality` is None without held-out samples."""

    kind: Literal["finished"] = "finished"
    quality: Quality | None


class Failed(Strict):
    """The quantization failed."""

    kind: Literal["failed"] = "failed"
    reason: str


Event = Annotated[Progress | Finished | Failed, Field(discriminator="kind")]
EVENTS: TypeAdapter[Event] = TypeAdapter(Event)
"""Parses one line of the process's output."""

"""Quantize a model in memory by llmcompressor 0.13: AWQ, GPTQ, or rounding to nearest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sun_sglang.quantize.job import BITS, LEFT_WHOLE, Job, Tokens

Done = Callable[[int, int], None]


def calibrate(model: Any, job: Job, done: Done) -> None:
    """Quantize the linear layers of a model in place.

    Args:
        model: a causal LM of transformers.
        job: the quantization; `rtn` reads no samples.
        done: called after each decoder layer, with the number of layers that are done and of all.
    """
    from llmcompressor import oneshot

    _keep_memory_unpinned()
    layers = model.config.get_text_config().num_hidden_layers
    done(0, layers)
    oneshot(
        model=model,
        dataset=None if job.algorithm == "rtn" else _loader(job.calibration),
        recipe=_modifiers(job, _Counter(layers, done)),
        # each modifier with the pipeline that it needs; one pipeline for all would quantize before AWQ has scaled
        pipeline="independent",
        moe_calibrate_all_experts=False,
    )
    done(layers, layers)


class _Counter:
    """Counts the decoder layers that are done; a pipeline has parts before and after them too."""

    def __init__(self, layers: int, done: Done) -> None:
        self._parts, self._layers, self._done = 0, layers, done

    def __call__(self) -> None:
        self._parts += 1
        self._done(min(self._parts, self._layers), self._layers)


def _modifiers(job: Job, part_done: Callable[[], None]) -> list[Any]:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    weights = QuantizationArgs(num_bits=BITS, type="int", symmetric=True, strategy="group", group_size=job.group_size)
    grid = {
        "config_groups": {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)},
        "ignore": list(LEFT_WHOLE),
    }
    if job.algorithm == "rtn":
        return [QuantizationModifier(**grid)]
    if job.algorithm == "gptq":
        return [_reporting(GPTQModifier, part_done)(**grid)]
    return [_reporting(AWQModifier, part_done)(), QuantizationModifier(**grid)]


def _reporting(modifier: Any, part_done: Callable[[], None]) -> Any:
    """Return a subclass of a modifier that reports each part of the model that is done."""

    class Reporting(modifier):  # type: ignore[misc]  # a class that is a value
        def on_sequential_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            super().on_sequential_epoch_end(*args, **kwargs)
            part_done()

    return Reporting


def _loader(samples: Sequence[Tokens]) -> Any:
    """Return a loader of batches of one sample, in their order."""
    import torch
    from torch.utils.data import DataLoader

    batches: list[dict[str, torch.Tensor]] = []
    for sample in samples:
        ids = torch.tensor([sample])
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return DataLoader(batches, batch_size=None, shuffle=False)  # type: ignore[arg-type]  # a list is a dataset


def _keep_memory_unpinned() -> None:
    """Make AWQ's cache leave its memory as it is where there is no accelerator to pin it for.

    `AWQModifier._apply_smoothing` pins always, and torch raises without an accelerator (llmcompressor 0.13.0).
    """
    import torch

    if torch.accelerator.is_available():
        return
    from llmcompressor.pipelines.cache import IntermediatesCache

    IntermediatesCache.pin_memory = lambda *_, **__: None

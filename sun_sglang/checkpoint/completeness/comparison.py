"""Compare the tensors of a checkpoint with those that its architecture needs. Pure.

SGLang serves checkpoints of other layouts than transformers': quantized weights, fused projections, other names. A
tensor counts as missing only if nothing in its place can hold its values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sun_sglang.checkpoint.completeness.stored import StoredTensor

_LAYER = re.compile(r"\.(\d+)\.")
# what checkpoints hold besides weights: buffers of older versions, and scales that belong to a weight
_NO_WEIGHT = re.compile(r"(inv_freq|masked_bias|_scale|zero_point)$")
_WHOLE_NUMBERS = ("BOOL", *(f"{sign}{bits}" for sign in "UI" for bits in (8, 16, 32, 64)))
_LANGUAGE = re.compile(r"(^|\.)(language_model|lm_head)\.")
Shape = tuple[int, ...]


def is_other_layout(needed: Mapping[str, Shape], stored: Mapping[str, StoredTensor]) -> bool:
    """Return whether no stored tensor has a name, or a module, that the architecture has."""
    modules = {_module(name) for name in needed}
    return not any(name in needed or _module(name) in modules for name in stored)


def language_part(needed: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the tensors of the language model; all, where a model has no other part.

    SGLang serves the text of a model whose checkpoint has no vision tower.
    """
    return {name: shape for name, shape in needed.items() if _LANGUAGE.search(name)} or dict(needed)


def missing_tensors(needed: Mapping[str, Shape], stored: Mapping[str, StoredTensor]) -> list[str]:
    """Return the names of the needed tensors that a checkpoint lacks, in the model's order.

    A tensor is not missing where its module has another tensor (a quantized weight), or where its layer has a tensor of
    a module that the architecture lacks (a fused projection).
    """
    modules = {_module(name) for name in needed}
    others = [name for name in stored if name not in needed and not _NO_WEIGHT.search(name)]
    replaced = {_module(name) for name in others}
    fused_places = {_place(name) for name in others if _module(name) not in modules}
    absent = (name for name in needed if name not in stored)
    return [name for name in absent if _module(name) not in replaced and _place(name) not in fused_places]


def wrong_shapes(
    needed: Mapping[str, Shape], stored: Mapping[str, StoredTensor]
) -> list[tuple[str, Shape, StoredTensor]]:
    """Return the name, needed shape and tensor of each stored tensor whose shape is another one.

    Only for weights that are not quantized.
    """
    return [(n, shape, stored[n]) for n, shape in needed.items() if n in stored and stored[n].shape != shape]


def layers_beyond(needed: Mapping[str, Shape], stored: Mapping[str, StoredTensor]) -> list[str]:
    """Return the names of the stored tensors of layers that a list of the model's layers does not have.

    A list that the architecture lacks as a whole, such as that of layers for multi-token prediction, counts as none.
    """
    last: dict[str, int] = {}
    for name in needed:
        found = _LAYER.search(name)
        if found:
            layers = name[: found.start()]
            last[layers] = max(last.get(layers, 0), int(found[1]))
    beyond = []
    for name in stored:
        found = _LAYER.search(name)
        if found and int(found[1]) > last.get(name[: found.start()], int(found[1])):
            beyond.append(name)
    return beyond


def whole_number_weights(needed: Mapping[str, Shape], stored: Mapping[str, StoredTensor]) -> list[str]:
    """Return the names of the needed weights and biases that are stored as whole numbers.

    Only for weights that are not quantized.
    """
    return [n for n in needed if n in stored and stored[n].dtype in _WHOLE_NUMBERS and n.endswith((".weight", ".bias"))]


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _place(name: str) -> str:
    """Return the number of a tensor's layer; empty for a tensor outside of the layers."""
    found = _LAYER.search(name)
    return found.group(1) if found else ""

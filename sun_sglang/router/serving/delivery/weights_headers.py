"""The headers that name the own weights of a task which prefilled the prompt of an answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sun_sglang.contracts.module import TaskWeights
from sun_sglang.router.task_weights.kind import Kind, kind_of

HEADERS: Mapping[Kind, str] = {"adapter": "X-Sun-Adapter", "module": "X-Sun-Module"}


def weights_headers(of_answers: Iterable[TaskWeights | None]) -> Mapping[str, str]:
    """Return the headers of a response, or none.

    Args:
        of_answers: the weights of each answer, None for the pool's model. Answers of one request have different ones if
            their task was updated meanwhile; the header then lists them.
    """
    headers: dict[str, str] = {}
    for weights in dict.fromkeys(of_answers):
        if weights is not None:
            name = HEADERS[kind_of(weights)]
            headers[name] = f"{headers[name]}, {weights.name}" if name in headers else weights.name
    return headers

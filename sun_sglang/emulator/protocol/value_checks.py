"""SGLang's checks of a request's lengths and sampling parameters. Pure.

After `managers/tokenizer_manager.py` and `sampling/sampling_params.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sun_sglang.emulator.protocol.errors import InternalError, InvalidBodyError, InvalidValueError
from sun_sglang.emulator.protocol.request import GENERATE


def check_length(endpoint: str, prompt_tokens: int, limit: object, context: int) -> None:
    """Raise unless the prompt and the requested tokens fit.

    Args:
        endpoint: path of the endpoint.
        prompt_tokens: tokens of the prompt.
        limit: the requested number of tokens; None for as many as fit. A value of another type is left to
            `check_sampling`.
        context: SGLang's context length, tokens.

    Raises:
        InvalidValueError: the prompt, or the prompt and the requested tokens, are too long.
    """
    if prompt_tokens >= context:
        problem = f"The input ({prompt_tokens} tokens) is longer than the model's context length ({context} tokens)."
        raise InvalidValueError(problem, endpoint)
    if isinstance(limit, bool) or not isinstance(limit, int):
        return
    if prompt_tokens + limit > context:
        raise InvalidValueError(
            f"Requested token count exceeds the model's maximum context length of {context} tokens. You requested a "
            f"total of {prompt_tokens + limit} tokens: {prompt_tokens} tokens from the input messages and {limit} "
            "tokens for the completion. Please reduce the number of tokens in the input messages or the completion to "
            "fit within the limit.",
            endpoint,
        )


def check_fits(endpoint: str, prompt_tokens: int, longest_prompt: int) -> None:
    """Raise unless the prompt fits into the worker's KV cache; SGLang's last check of a request.

    Args:
        endpoint: path of the endpoint.
        prompt_tokens: tokens of the prompt.
        longest_prompt: prompts of this length or more are refused, tokens.

    Raises:
        InvalidValueError: the prompt is too long.
    """
    if prompt_tokens >= longest_prompt:
        raise InvalidValueError(
            f"Input length ({prompt_tokens} tokens) exceeds the maximum allowed length ({longest_prompt} tokens). Use "
            "a shorter input or enable --allow-auto-truncate.",
            endpoint,
        )


def check_sampling(endpoint: str, params: Mapping[str, Any], limit: int | None) -> None:
    """Raise unless every sampling parameter is within its range.

    Args:
        endpoint: path of the endpoint.
        params: sampling parameters under SGLang's names.
        limit: the requested number of tokens; None for as many as fit.

    Raises:
        InvalidValueError: a value is out of range.
        InvalidBodyError: a value is not a number, on an OpenAI endpoint.
        InternalError: a value is not a number, on `/generate`.
    """
    temperature = _number(params, "temperature", 1.0, endpoint)
    if not math.isfinite(temperature) or temperature < 0:
        raise InvalidValueError(f"temperature must be a non-negative finite number, got {temperature}.", endpoint)
    top_p = _number(params, "top_p", 1.0, endpoint)
    # SGLang sets top_k to 1 for a temperature of 0
    top_k = _number(params, "top_k", -1, endpoint) if temperature >= 1e-6 else 1
    if not 0 < top_p <= 1:
        raise InvalidValueError(f"top_p must be in (0, 1], got {top_p}.", endpoint)
    if top_k < 1 and top_k != -1:
        raise InvalidValueError(f"top_k must be -1 (disable) or at least 1, got {top_k}.", endpoint)
    if limit is not None and limit < 0:
        raise InvalidValueError(f"max_new_tokens must be at least 0, got {limit}.", endpoint)
    least = _number(params, "min_new_tokens", 0, endpoint)
    if limit is not None and not 0 <= least <= limit:
        raise InvalidValueError(f"min_new_tokens must be in [0, max_new_tokens({limit})], got {least}.", endpoint)


def stop_strings(params: Mapping[str, Any], endpoint: str) -> tuple[str, ...]:
    """Return the stop strings of a request.

    Raises:
        InvalidBodyError: `stop` is neither text nor a list, on an OpenAI endpoint.
        InternalError: the same, on `/generate`.
    """
    stop = params.get("stop") or ()
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, (list, tuple)):
        if endpoint == GENERATE:
            raise InternalError("stop is neither text nor a list")
        raise InvalidBodyError("string_type", ("body", "stop"), "Input should be a valid string")
    return tuple(stop)


def _number(params: Mapping[str, Any], name: str, default: float, endpoint: str) -> float:
    value = params.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if endpoint == GENERATE:
            # without a schema SGLang compares the value before it checks the type
            raise InternalError(f"{name} is not a number")
        raise InvalidBodyError("float_parsing", ("body", name), "Input should be a valid number")
    return float(value) if endpoint != GENERATE else value

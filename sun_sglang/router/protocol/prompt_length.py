"""Is a prompt too long, and does the model have every token id of a request? Pure.

Token ids are counted. Text has an upper bound, and a lower one where the vocabulary gives one; a tokenizer is asked
only about what lies between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.prompt_bytes import chat_bytes, text_bytes
from sun_sglang.router.protocol.request import Endpoint

# What tokenizers and chat templates add to the text itself. A template can add more (a default system prompt, tool
# instructions); the workers then refuse the request themselves, both of them alike.
SPECIAL_TOKENS = 8
TEMPLATE_TOKENS = 128
MESSAGE_TOKENS = 16


class PromptLimits(NamedTuple):
    """What every usable worker of a task takes.

    Attributes:
        tokens: longest prompt.
        vocab: token ids are below.
        token_bytes: most bytes of text that one token may cover; None where there is no such number.
    """

    tokens: int
    vocab: int
    token_bytes: int | None = None

    def covers(self, other: PromptLimits) -> bool:
        """Whether a request that is within `other` is within this limit."""
        return self.tokens >= other.tokens and self.vocab >= other.vocab


class PromptSize(NamedTuple):
    """How long a prompt is.

    Attributes:
        exact: its tokens, where they are given as ids.
        most: tokens that it does not exceed.
        text: bytes of text of which each reaches the tokenizer; None for a chat, whose template may drop text.
        question: what to ask a worker that counts it.
    """

    exact: int | None
    most: int
    text: int | None
    question: Mapping[str, Any]


def measure_prompt(endpoint: Endpoint, body: Mapping[str, Any]) -> PromptSize | None:
    """Return the size of a single request's prompt; None where it has none."""
    ids = body.get("prompt") if endpoint is Endpoint.COMPLETIONS else body.get("input_ids")
    if isinstance(ids, list) and ids:
        return PromptSize(len(ids), len(ids), None, {})
    if endpoint is Endpoint.CHAT:
        most = TEMPLATE_TOKENS + MESSAGE_TOKENS * len(body["messages"]) + chat_bytes(body)
        return PromptSize(None, most, None, body)
    text = body.get("prompt" if endpoint is Endpoint.COMPLETIONS else "text")
    if not isinstance(text, str):
        return None
    size = text_bytes(text)
    # byte-level tokenizers make at most one token of a byte
    return PromptSize(None, size + SPECIAL_TOKENS, size, {"prompt": text})


def needs_count(size: PromptSize, limit: PromptLimits, task: str) -> bool:
    """Return whether a tokenizer has to count a prompt.

    Raises:
        RequestError: the prompt is too long, and no tokenizer is needed to know it (400).
    """
    if size.exact is not None:
        if size.exact > limit.tokens:
            raise prompt_too_long(f"{size.exact}", limit, task)
        return False
    if limit.token_bytes is not None and size.text is not None and size.text > limit.tokens * limit.token_bytes:
        raise prompt_too_long(f"more than {size.text // limit.token_bytes}", limit, task)
    return size.most > limit.tokens


def prompt_too_long(tokens: str, limit: PromptLimits, task: str) -> RequestError:
    """The answer to a prompt that some worker of the task could not take."""
    return RequestError(
        400,
        f"the prompt has {tokens} tokens; task `{task}` takes at most {limit.tokens}",
        code="context_length_exceeded",
    )


def check_token_ids(endpoint: Endpoint, body: Mapping[str, Any], limit: PromptLimits) -> None:
    """Check every token id that a request carries against the vocabulary of the task's workers.

    SGLang uses ids as indices into tensors: one beyond the vocabulary ends a worker's process.

    Raises:
        RequestError: an id that the model does not have, with the field's name (400).
    """
    name = "prompt" if endpoint is Endpoint.COMPLETIONS else "input_ids"
    _check_ids(body.get(name), name, limit.vocab)
    if endpoint is not Endpoint.GENERATE:
        _check_sampling(body, "", "min_tokens", limit.vocab)
        return
    params = body.get("sampling_params") or ()
    for one in params if isinstance(params, list) else [params]:
        _check_sampling(one or {}, "sampling_params.", "min_new_tokens", limit.vocab)
    _check_ids(body.get("token_ids_logprob"), "token_ids_logprob", limit.vocab)


def _check_sampling(params: Mapping[str, Any], where: str, least: str, vocab: int) -> None:
    stops = params.get("stop_token_ids")
    _check_ids(stops, where + "stop_token_ids", vocab)
    if stops and params.get(least) and len(set(stops)) > vocab // 2:
        # the model may have no token but these and its own ends: sampling from nothing ends a scheduler's process
        message = f"`{where}{least}` cannot be combined with `{where}stop_token_ids` of over half of the vocabulary"
        raise RequestError(400, message, param=where + least)
    _check_ids([int(key) for key in params.get("logit_bias") or ()], where + "logit_bias", vocab)


def _check_ids(value: object, name: str, vocab: int) -> None:
    """Check a list of ids, or one of lists of ids; its types and signs were checked before (`fields`)."""
    if not isinstance(value, list) or not value:
        return
    if type(value[0]) is int:
        # one pass in C: a long prompt has tens of thousands of them
        largest = max(value)
        if largest >= vocab:
            message = f"`{name}` holds {largest}; token ids go from 0 to {vocab - 1}"
            raise RequestError(400, message, param=name)
        return
    for item in value:
        _check_ids(item, name, vocab)

"""Check a prompt's length and the token ids of a request. Pure.

Token ids are counted. For text the number of tokens has an upper bound, and a lower bound where the vocabulary yields
one; a tokenizer counts only the prompts that the bounds do not decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol import overflow
from sun_sglang.router.protocol.prompt_bytes import chat_bytes, text_bytes
from sun_sglang.router.protocol.request import Endpoint

# Tokens that tokenizers and chat templates add to the text. A template may add more (a default system prompt, tool
# instructions); both workers then refuse the request themselves.
SPECIAL_TOKENS = 8
TEMPLATE_TOKENS = 128
MESSAGE_TOKENS = 16


class PromptLimits(NamedTuple):
    """The prompts that every usable worker of a task accepts.

    Attributes:
        tokens: tokens of the longest prompt.
        vocab: size of the vocabulary; every token id is smaller.
        token_bytes: the most bytes of text that one token covers; None if the tokenizer has no such bound.
    """

    tokens: int
    vocab: int
    token_bytes: int | None = None

    def covers(self, other: PromptLimits) -> bool:
        """Return whether every request within `other` is within these limits too."""
        return self.tokens >= other.tokens and self.vocab >= other.vocab


class PromptSize(NamedTuple):
    """The length of a prompt.

    Attributes:
        exact: its tokens if it is given as token ids; None for text.
        most: an upper bound of its tokens.
        text: bytes of text that reach the tokenizer; None for a chat, whose template may drop text.
        question: the body of the request to a worker that counts its tokens.
    """

    exact: int | None
    most: int
    text: int | None
    question: Mapping[str, Any]


def measure_prompt(endpoint: Endpoint, body: Mapping[str, Any]) -> PromptSize | None:
    """Return the size of a single request's prompt; None if it has no prompt.

    Args:
        endpoint: whose format the body has.
        body: the fields of the single request.
    """
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
    # a byte-level tokenizer makes at most one token of each byte
    return PromptSize(None, size + SPECIAL_TOKENS, size, {"prompt": text})


def needs_count(size: PromptSize, limit: PromptLimits, task: str) -> bool:
    """Return whether a tokenizer must count a prompt.

    Args:
        size: length of the prompt.
        limit: limits of the task's workers.
        task: name of the task, for the message.

    Raises:
        RequestError: 400, the prompt is too long by its bounds.
    """
    if size.exact is not None:
        if size.exact > limit.tokens:
            raise prompt_too_long(f"{size.exact}", limit, task)
        return False
    if limit.token_bytes is not None and size.text is not None and size.text > limit.tokens * limit.token_bytes:
        raise prompt_too_long(f"more than {size.text // limit.token_bytes}", limit, task)
    return size.most > limit.tokens


def prompt_too_long(tokens: str, limit: PromptLimits, task: str) -> RequestError:
    """Return the error for a prompt that is too long for some worker of the task.

    Args:
        tokens: the number of its tokens, as text: `512` or `more than 512`.
        limit: limits of the task's workers.
        task: name of the task.
    """
    return RequestError(400, overflow.prompt_overflow(tokens, limit.tokens, task), code=overflow.CODE)


def check_token_ids(endpoint: Endpoint, body: Mapping[str, Any], limit: PromptLimits) -> None:
    """Check every token id of a request against the vocabulary of the task's workers.

    SGLang uses token ids as indices into tensors: an id beyond the vocabulary ends a worker's process.

    Args:
        endpoint: whose format the body has.
        body: the fields of the request.
        limit: limits of the task's workers.

    Raises:
        RequestError: 400, an id is beyond the vocabulary; names the field.
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
        # if no other token is left, sampling fails and ends the scheduler's process
        message = f"`{where}{least}` cannot be combined with `{where}stop_token_ids` of over half of the vocabulary"
        raise RequestError(400, message, param=where + least)
    _check_ids([int(key) for key in params.get("logit_bias") or ()], where + "logit_bias", vocab)


def _check_ids(value: object, name: str, vocab: int) -> None:
    """Check a list of token ids, or a list of such lists; `fields` has checked types and signs."""
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

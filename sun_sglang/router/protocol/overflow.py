"""Requests that are too long for a model: their code, and the texts by which clients recognise them. Pure.

Clients shorten a conversation, or choose another model, after an error with this code. Many read the text instead
(litellm, LangChain, coding agents), which contains one of OpenAI's and SGLang's phrases.
"""

from __future__ import annotations

import re
from typing import NamedTuple

CODE = "context_length_exceeded"
# OpenAI's phrase, and SGLang's (managers/tokenizer_manager.py)
_PHRASES = ("maximum context length", "longer than the model's context length")
# SGLang's other texts: managers/utils.py, disaggregation/prefill.py and decode.py, entrypoints/openai/serving_chat.py
_SIGNS = (
    *_PHRASES,
    "exceeds the maximum allowed length",
    "exceeds the maximum number of tokens",
    "max_completion_tokens is too large",
)


# SGLang's text for a prompt that fits, with an answer that does not (managers/tokenizer_manager.py)
_ANSWER_TOO_LONG = re.compile(
    r"maximum context length of (\d+) tokens\..*?(\d+) tokens from the input messages and (\d+) tokens for the compl"
)


class AnswerOverflow(NamedTuple):
    """A request whose prompt fits into the context, but not with the tokens asked for its answer.

    Attributes:
        prompt: tokens of the prompt.
        answer: the most tokens of the answer.
        context: tokens of the context.
    """

    prompt: int
    answer: int
    context: int


def answer_overflow(message: str) -> AnswerOverflow | None:
    """Return the numbers in a worker's message, if only the tokens asked for the answer are too many."""
    found = _ANSWER_TOO_LONG.search(message)
    if found is None:
        return None
    context, prompt, answer = map(int, found.groups())
    return AnswerOverflow(prompt, answer, context) if prompt < context else None


def is_overflow(message: str) -> bool:
    """Return whether a worker refused a request with this message because prompt or answer are too long."""
    return any(sign in message for sign in _SIGNS)


def with_phrase(message: str) -> str:
    """Return the message of an overflow with a phrase that clients recognise."""
    if any(phrase in message for phrase in _PHRASES):
        return message
    return f"{message.rstrip('.')}. The request is over this model's maximum context length."


def prompt_overflow(tokens: str, most: int, task: str) -> str:
    """Return the message for a prompt that is too long.

    Args:
        tokens: the number of its tokens, as text: `512` or `more than 512`.
        most: tokens of the longest prompt that the task's workers accept.
        task: name of the task.
    """
    # an answer has one token at least
    context = most + 1
    return (
        f"The input ({tokens} tokens) is longer than the model's context length ({context} tokens). "
        f"This model's maximum context length is {context} tokens; task `{task}` takes at most {most} of them as input."
        " Please reduce the length of the messages."
    )

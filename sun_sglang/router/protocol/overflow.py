"""Requests that are too long for a model: their code, and the texts by which clients recognise them. Pure.

Clients shorten a conversation, or choose another model, after an error with this code. Many read the text instead
(litellm, LangChain, coding agents), which contains one of OpenAI's and SGLang's phrases.
"""

from __future__ import annotations

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

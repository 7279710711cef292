"""Files of prompts: ShareGPT's JSON, and JSONL with one prompt a line.

A line of JSONL has one of `messages` (a chat, for the endpoint of chats), `prompt` (a text, or a list of token ids),
`text` or `question`; other keys are not read, so that a file with answers can be used as it is. Of a chat, the
assistant's last message is left out: it is what the model is to write. Of a conversation of ShareGPT, the first message
of a human is the prompt; conversations without one are left out and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from sun_sglang.bench.load.errors import FileError
from sun_sglang.bench.load.workload.planned import Chat, Prompt

SHAREGPT = "sharegpt"
SINGLE_TURN = "single_turn"
_TEXT_KEYS = ("prompt", "text", "question")


@dataclass(frozen=True)
class Dataset:
    """The prompts of a file.

    Attributes:
        file: the file.
        format: `sharegpt` or `single_turn`.
        sha256: SHA-256 of the file's bytes.
        prompts: at least one, in the order of the file.
        left_out: conversations without a message of a human.
    """

    file: Path
    format: str
    sha256: str
    prompts: Sequence[Prompt]
    left_out: int = 0

    @property
    def origin(self) -> dict[str, Any]:
        """What a result states of the dataset."""
        return {
            "file": self.file.name,
            "format": self.format,
            "sha256": self.sha256,
            "prompts": len(self.prompts),
            "left_out": self.left_out,
        }


def parse_sharegpt(file: Path, content: bytes) -> Dataset:
    """Return the prompts in a JSON list of conversations.

    Raises:
        FileError: the content is no such list; the message names the conversation.
    """
    try:
        conversations = orjson.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as e:
        raise FileError(file, e.lineno, f"not valid JSON: {e.msg}") from e
    if not isinstance(conversations, list):
        raise FileError(file, 1, "a ShareGPT file is a JSON list of conversations")
    prompts = []
    for number, conversation in enumerate(conversations, 1):
        try:
            prompt = _first_of_human(conversation)
        except ValueError as e:
            raise FileError(file, None, f"conversation {number}: {e}") from e
        if prompt:
            prompts.append(prompt)
    if not prompts:
        raise FileError(file, None, "no conversation has a message of a human")
    left_out = len(conversations) - len(prompts)
    return Dataset(file, SHAREGPT, hashlib.sha256(content).hexdigest(), prompts, left_out)


def _first_of_human(conversation: Any) -> str | None:
    turns = (
        conversation.get("conversations", conversation.get("conversation")) if isinstance(conversation, dict) else None
    )
    if not isinstance(turns, list):
        raise ValueError("it has no list `conversations`")
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise ValueError("a message has no text `value`")
        if turn.get("from") in ("human", "user") and turn["value"].strip():
            return str(turn["value"])
    return None


def parse_jsonl(file: Path, content: bytes) -> Dataset:
    """Return the prompts in a file with one JSON object a line.

    Raises:
        FileError: a line is wrong; the message names it.
    """
    prompts: list[Prompt] = []
    for line, text in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            prompts.append(_prompt(orjson.loads(text)))
        except orjson.JSONDecodeError as e:
            raise FileError(file, line, f"not valid JSON: {e.msg}") from e
        except ValueError as e:
            raise FileError(file, line, str(e)) from e
    if not prompts:
        raise FileError(file, None, "the file has no prompt")
    return Dataset(file, SINGLE_TURN, hashlib.sha256(content).hexdigest(), prompts)


def _prompt(row: Any) -> Prompt:
    if not isinstance(row, dict):
        raise ValueError("the line is no JSON object")
    if "messages" in row:
        return _chat(row["messages"])
    for name in _TEXT_KEYS:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value
        if name == "prompt" and isinstance(value, list) and value and all(type(i) is int and i >= 0 for i in value):
            return tuple(value)
        if value is not None:
            raise ValueError(f"`{name}` is no text" if not isinstance(value, str) else f"`{name}` is empty")
    raise ValueError("the line has none of `messages`, `prompt`, `text` and `question`")


def _chat(messages: Any) -> Chat:
    if not isinstance(messages, list):
        raise ValueError("`messages` is no list")
    kept = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f"`messages.{number}` is no object")
        for name in ("role", "content"):
            if not isinstance(message.get(name), str):
                raise ValueError(f"`messages.{number}.{name}` is no text")
        kept.append({"role": message["role"], "content": message["content"]})
    while kept and kept[-1]["role"] == "assistant":
        kept.pop()
    if not kept:
        raise ValueError("`messages` has no message before the assistant's")
    return Chat(tuple(kept))

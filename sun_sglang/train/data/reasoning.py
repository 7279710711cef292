"""The reasoning of an answer: what the generation prompt begins of it, and the text that continues the prompt. Pure.

Templates of reasoning models differ in who opens the block of the reasoning. The generation prompt of DeepSeek-R1, QwQ
and Qwen3-Thinking ends with an opened block, so that an answer begins inside of it; one that turns reasoning off ends
with a closed block. Many templates drop the reasoning of earlier answers, and so of the answer that is learned.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from sun_sglang.train.data.rows.messages import Message

# the tags of SGLang's reasoning parsers (`parser/reasoning_parser.py`) whose closing tag follows from the opening one
_NAME = r"(?:[\w-]+:)?\w*(?:think|thought|reasoning)\w*"
_CLOSING = re.compile(rf"</({_NAME})>|◁/(think)▷")
_OPENED_AT_END = re.compile(rf"(<({_NAME})>|◁think▷)\s*\Z")
_CLOSED_AT_END = re.compile(rf"(</{_NAME}>|◁/think▷)\s*\Z")


class Block(NamedTuple):
    """The block of the reasoning, as a generation prompt leaves it.

    Attributes:
        state: `opened`: an answer begins inside of the block. `closed`: reasoning is off. `none`: the answer opens it.
        opening: the opening tag.
        closing: the closing tag.
        begun: the text of the block that ends the prompt; empty unless it is opened.
    """

    state: Literal["opened", "closed", "none"]
    opening: str
    closing: str
    begun: str = ""

    def around(self, reasoning: str) -> str:
        """Return the text from the end of the prompt to the content of the answer, in the form of the block's models.

        Args:
            reasoning: the reasoning; empty for none.
        """
        line = "" if self.state == "opened" and not self.begun.endswith("\n") else "\n"
        start = "" if self.state == "opened" else f"{self.opening}{line}"
        return f"{start}{reasoning.strip()}{line}{self.closing}{line}{line}"

    def without_empty(self, rendered: str) -> str:
        """Return a rendered answer without the empty block, or the closing tag, that the template begins it with."""
        empty = rf"\s*(?:{re.escape(self.opening)})?\s*{re.escape(self.closing)}\s*"
        return re.sub(empty, "", rendered, count=1) if re.match(empty, rendered) else rendered


class SplitText(NamedTuple):
    """The text of an answer, with its reasoning apart.

    Attributes:
        reasoning: the reasoning; empty where the text has none.
        lead: the text that puts the reasoning before the content: as the text has it, else an empty block.
        content: the rest.
    """

    reasoning: str
    lead: str
    content: str


class SplitAnswer(NamedTuple):
    """An answer whose reasoning is apart from its content.

    Attributes:
        reasoning: the reasoning; empty where the answer has none.
        lead: the text that puts the reasoning before the content.
        message: the message without reasoning.
    """

    reasoning: str
    lead: str
    message: Message


def block_of(prompt: str, template: str) -> Block | None:
    """Return the block of a prompt's reasoning; None where neither the prompt nor the template has one.

    Args:
        prompt: the rendered prompt, with its generation prompt.
        template: the chat template.
    """
    opened = _OPENED_AT_END.search(prompt)
    if opened is not None:
        return Block("opened", opened[1], _closing_of(opened[1]), opened[0])
    closed = _CLOSED_AT_END.search(prompt)
    if closed is not None:
        return Block("closed", _opening_of(closed[1]), closed[1])
    known = _CLOSING.search(template)
    return None if known is None else Block("none", _opening_of(known[0]), known[0])


def split_answer(answer: Message, block: Block) -> SplitAnswer:
    """Return an answer with its reasoning apart: that of `reasoning_content`, else of a block in its content.

    Args:
        answer: the assistant message.
        block: the block of its prompt.
    """
    message: dict[str, Any] = {key: value for key, value in answer.items() if key != "reasoning_content"}
    given, content = answer.get("reasoning_content") or "", answer.get("content")
    if given or not isinstance(content, str):
        return SplitAnswer(given.strip(), block.around(given), message)
    split = split_text(content, block)
    return SplitAnswer(split.reasoning, split.lead, {**message, "content": split.content})


def split_text(text: str, block: Block) -> SplitText:
    """Return the text of an answer with its reasoning apart.

    Args:
        text: the answer.
        block: the block of its prompt.
    """
    before, closing, after = text.partition(block.closing)
    bare = before.lstrip()
    if not closing or not (block.state == "opened" or bare.startswith(block.opening)):
        return SplitText("", block.around(""), text)
    reasoning = bare.removeprefix(block.opening)
    # an opened block has its tag, and what follows the tag, in the prompt
    start = reasoning.removeprefix(block.begun.removeprefix(block.opening)) if block.state == "opened" else before
    content = after.lstrip()
    return SplitText(reasoning.strip(), start + closing + after[: len(after) - len(content)], content)


def _closing_of(opening: str) -> str:
    return f"{opening[0]}/{opening[1:]}"


def _opening_of(closing: str) -> str:
    return closing.replace("/", "", 1)

"""From a turn to token ids, as serving computes them: the chat template renders what SGLang gives to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

from sun_sglang.errors import RecipeError
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.data.reasoning import Block, block_of, split_answer, split_text
from sun_sglang.train.data.rows.conversation import Turn
from sun_sglang.train.data.rows.messages import Message
from sun_sglang.train.data.rows.tools import Tool

_MEDIA = ("image", "audio", "video", "vision")
# the names that templates give to the message of a loop
_MESSAGE_NAMES = ("message", "msg", "m")
_PROBE = "sun probe"
# the variable by which Llama's templates take the date
_DATE = "date_string"


class Encoded(NamedTuple):
    """An example, and what the chat template did to it that its row does not show."""

    example: TokenizedExample
    notes: frozenset[str]


class ChatRenderer:
    """Turns conversations into token ids with one tokenizer and its chat template.

    Args:
        tokenizer: a tokenizer with a chat template and an end-of-text token.
        end_tokens: further ids at which serving ends an answer.
        template_kwargs: variables for the chat template.
    """

    def __init__(
        self, tokenizer: Any, end_tokens: Collection[int] = (), template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._kwargs = dict(template_kwargs or {})
        ends = tokenizer.convert_ids_to_tokens(sorted({tokenizer.eos_token_id, *end_tokens}))
        self._ends = tuple(end for end in ends if end)
        self._keeps_parts = loops_over_content(tokenizer.chat_template)
        # by part of a conversation: whether the template renders it
        self._rendered: dict[str, bool] = {}

    def encode(self, turn: Turn, where: str) -> Encoded:
        """Return a turn as token ids: the prompt, and the answer with the token that ends it.

        Args:
            turn: the turn.
            where: its place, for error messages.

        Raises:
            RecipeError: the chat template refuses the messages, or does not render the tool calls of the answer; or a
                text is no Unicode.
        """
        messages, notes = self._served(turn.messages), set[str]()
        # a request whose last message is an assistant's continues it as the user's
        if messages and messages[-1]["role"] == "assistant" and isinstance(messages[-1].get("content"), str):
            messages[-1] = {"role": "user", "content": messages[-1]["content"]}
            notes.add("prompts end with an assistant message, which SGLang gives to the template as the user's")
        prompt = self._render(messages, turn.tools, where, answered=False)
        if "strftime_now" in self._tokenizer.chat_template and _DATE not in self._kwargs:
            notes.add(
                "the chat template may write the date: prompts are trained with today's, and served with another; "
                f"`chat_template_kwargs: {{{_DATE}: ...}}` may set it for both"
            )
        if turn.tools and not self._renders("tools", messages, turn.tools):
            notes.add("the chat template does not render `tools`: neither training nor serving shows them to the model")
        if any(m.get("tool_calls") for m in messages) and not self._renders("tool_calls", messages, turn.tools):
            notes.add("the chat template does not render the tool calls of earlier messages")
        if isinstance(turn.answer, str):
            text, is_ended = self._text_answer(turn.answer, prompt, notes), False
        else:
            text, is_ended = self._answer(messages, turn.answer, turn.tools, prompt, where, notes)
        if _is_empty(turn.answer):
            notes.add("the answer is empty: only its end has a loss")
        for part in (prompt, text):
            _check_unicode(part, where)
        prompt_ids = self._encode(prompt)
        answer_ids = self._encode_after(prompt, prompt_ids, text)
        end = () if is_ended else (self._tokenizer.eos_token_id,)
        return Encoded(TokenizedExample(tuple(prompt_ids), (*answer_ids, *end), where), frozenset(notes))

    def _served(self, messages: Sequence[Message]) -> list[Message]:
        return [{**m, "content": self._content(m)} if isinstance(m["content"], list) else m for m in messages]

    def _content(self, message: Message) -> Any:
        if self._keeps_parts and message["role"] != "tool":
            return message["content"]
        return " ".join(part["text"] for part in message["content"])

    def _text_answer(self, answer: str, prompt: str, notes: set[str]) -> str:
        """Return an answer that is a text as it continues the prompt: as it is, after the reasoning of the prompt."""
        block = block_of(prompt, self._tokenizer.chat_template)
        if block is None or block.state != "opened":
            return answer
        if block.closing in answer:
            _, lead, content = split_text(answer, block)
            return lead + content
        notes.add(_adds(block, ""))
        return block.around("") + answer

    def _answer(
        self,
        messages: list[Message],
        given: Message,
        tools: list[Tool] | None,
        prompt: str,
        where: str,
        notes: set[str],
    ) -> tuple[str, bool]:
        """Return the answer as the template continues the prompt, and whether the token that ends it is part of it."""
        block = block_of(prompt, self._tokenizer.chat_template)
        answer, start, lead = self._placed(messages, given, tools, prompt, block, where, notes)
        whole = self._render([*messages, answer], tools, where, answered=True)
        calls = answer.get("tool_calls") or []
        if not whole.startswith(start):
            if calls or not isinstance(answer["content"], str):
                raise RecipeError(
                    f"{where}: the chat template does not continue its generation prompt by the answer, so the text of "
                    "the tool call is unknown; name another chat_template"
                )
            notes.add(
                "the chat template renders an answer in the history in another way than its generation prompt begins "
                "one; the text of the answer is learned as it is"
            )
            return lead + answer["content"], False
        rendered = whole[len(start) :]
        if lead and block is not None:
            rendered = block.without_empty(rendered)
        if not all(call["function"]["name"] in rendered for call in calls):
            raise RecipeError(
                f"{where}: the chat template does not render `tool_calls`, so the answer would lack them; name a "
                "chat_template that does"
            )
        shown = answer if block is None or lead else {**answer, **split_answer(answer, block).message}
        for key in ("content", "reasoning_content"):
            if isinstance(shown.get(key), str) and shown[key].strip() not in rendered:
                notes.add(f"the chat template does not render the whole `{key}` of an answer")
        text, is_ended = self._ended(rendered, self._tail(messages, tools))
        return lead + text, is_ended

    def _placed(
        self,
        messages: list[Message],
        given: Message,
        tools: list[Tool] | None,
        prompt: str,
        block: Block | None,
        where: str,
        notes: set[str],
    ) -> tuple[Message, str, str]:
        """Return the answer to render, the part of the prompt that it continues, and the text between the two.

        A template that shows the reasoning of an answer renders the whole answer. Other templates render the answer
        without it, and the reasoning is put between.
        """
        (answer,) = self._served([given])
        if block is None:
            return answer, prompt, ""
        split = split_answer(answer, block)
        if block.state == "closed":
            if split.reasoning:
                notes.add(f"the generation prompt ends reasoning by `{block.closing}`: that of answers is not learned")
            return split.message, prompt, ""
        whole = self._render([*messages, answer], tools, where, answered=True)
        is_shown = split.reasoning in whole[len(prompt) :]
        if is_shown and (block.state == "none" or whole.startswith(prompt)):
            return answer, prompt, ""
        if "reasoning_content" in answer or not split.reasoning:
            notes.add(_adds(block, split.reasoning))
        return split.message, prompt.removesuffix(block.begun), split.lead

    def _ended(self, rendered: str, tail: str | None) -> tuple[str, bool]:
        """Cut a rendered answer after its end token; without one, before the text that the template adds to a turn."""
        if tail is not None and rendered.endswith(tail):
            body = rendered.removesuffix(tail)
            found = [tail.index(end) + len(end) for end in self._ends if end in tail]
            return (body + tail[: min(found)], True) if found else (body, False)
        stripped = rendered.rstrip()
        return stripped, stripped.endswith(self._ends)

    def _tail(self, messages: list[Message], tools: list[Tool] | None) -> str | None:
        """Return what the template adds after the content of an answer; None where that is unknown."""
        probe = self._try_render([*messages, {"role": "assistant", "content": _PROBE}], tools)
        return probe.rpartition(_PROBE)[2] if probe is not None and _PROBE in probe else None

    def _renders(self, part: str, messages: list[Message], tools: list[Tool] | None) -> bool:
        """Return whether the template renders a part of a conversation: `tools` or `tool_calls`."""
        if part not in self._rendered:
            without = [{key: value for key, value in m.items() if key != part} for m in messages]
            others = None if part == "tools" else tools
            self._rendered[part] = self._try_render(messages, tools) != self._try_render(without, others)
        return self._rendered[part]

    def _try_render(self, messages: list[Message], tools: list[Tool] | None) -> str | None:
        try:
            return self._render(messages, tools, "", answered=True)
        except RecipeError:
            return None

    def _render(self, messages: list[Message], tools: list[Tool] | None, where: str, *, answered: bool) -> str:
        """Render messages, with the generation prompt unless they are answered."""
        reason: Exception
        try:
            return self._apply(messages, tools, answered)
        except jinja2.TemplateSyntaxError as e:
            raise RecipeError(f"chat_template: line {e.lineno}: {e.message}") from e
        except Exception as e:  # a template may raise anything
            reason = e
        if tools:
            # some templates take tools without OpenAI's wrapper, and serving tries that next
            try:
                return self._apply(messages, [tool["function"] for tool in tools], answered)
            except Exception as e:  # a template may raise anything
                reason = e
        raise RecipeError(f"{where}: the chat template refuses the messages ({reason})") from reason

    def _apply(self, messages: list[Message], tools: list[Tool] | None, answered: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not answered, tools=tools, **self._kwargs
        )
        return text

    def _encode(self, text: str) -> list[int]:
        # also where the tokenizer adds a token at the start: the template has the tokens that serving sends
        # not verbose: the recipe's length is checked, not the tokenizer's
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def _encode_after(self, prompt: str, prompt_ids: list[int], answer: str) -> list[int]:
        """Return the ids of an answer as they follow its prompt: some tokenizers add a space to the start of a text."""
        together = self._encode(prompt + answer)
        start = len(prompt_ids)
        return together[start:] if together[:start] == prompt_ids else self._encode(answer)


@lru_cache(maxsize=8)
def loops_over_content(template: str) -> bool:
    """Return whether SGLang gives a template lists of content parts; it gives others their texts, joined by spaces.

    Args:
        template: a Jinja template.
    """
    if any(word in template for word in _MEDIA):
        return True
    try:
        tree = _compile_jinja_template(template).environment.parse(template)
    except jinja2.TemplateError:
        return False
    return any(_is_content(loop.iter) for loop in tree.find_all(jinja2.nodes.For))


def _is_content(node: Any) -> bool:
    while isinstance(node, jinja2.nodes.Filter | jinja2.nodes.Test) or (
        isinstance(node, jinja2.nodes.Getitem) and isinstance(node.arg, jinja2.nodes.Slice)
    ):
        node = node.node
    if isinstance(node, jinja2.nodes.Getitem):
        name = getattr(node.arg, "value", None)
    elif isinstance(node, jinja2.nodes.Getattr):
        name = node.attr
    else:
        return False
    return name == "content" and isinstance(node.node, jinja2.nodes.Name) and node.node.name in _MESSAGE_NAMES


def _adds(block: Block, reasoning: str) -> str:
    if reasoning:
        return f"the chat template drops the reasoning of an answer; it is learned, ended by `{block.closing}`"
    return f"the generation prompt opens `{block.opening}`: answers without reasoning begin with `{block.closing}`"


def _is_empty(answer: str | Message) -> bool:
    if isinstance(answer, str):
        return not answer
    return not (answer["content"] or answer.get("tool_calls") or answer.get("reasoning_content"))


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise RecipeError(
            f"{where}: character {e.start + 1} of the rendered text is half of a surrogate pair "
            f"({text[e.start]!a}); replace it"
        ) from e

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.demo.tokenizer import END, ROLES, VOCAB_SIZE, build_tokenizer

TOKENIZER = build_tokenizer()
TEXTS = st.text().filter(lambda text: "<|" not in text)
CALL = {"type": "function", "function": {"name": "email", "arguments": {"to": "bob", "body": "lunch is at 7"}}}


def prompt_ids(messages: list[dict[str, Any]], **kwargs: Any) -> list[int]:
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **kwargs)
    return list(TOKENIZER.encode(text, add_special_tokens=False))


@given(TEXTS)
def test_every_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert len(ids) == len(text.encode())
    assert TOKENIZER.decode(ids) == text


@given(st.lists(st.integers(0, VOCAB_SIZE - 1)))
def test_any_ids_decode(ids: list[int]) -> None:
    assert isinstance(TOKENIZER.decode(ids), str)


@given(TEXTS)
def test_a_cut_text_decodes_to_a_prefix_and_replacement_characters(text: str) -> None:
    ids = TOKENIZER.encode(text)
    for end in range(len(ids)):
        assert text.startswith(TOKENIZER.decode(ids[:end]).rstrip("\ufffd"))


def test_every_id_has_a_token() -> None:
    assert len(TOKENIZER) == VOCAB_SIZE
    assert None not in TOKENIZER.convert_ids_to_tokens(list(range(VOCAB_SIZE)))


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), TEXTS)
def test_a_conversation_only_grows_at_its_end(turns: list[tuple[str, str]], system: str) -> None:
    messages = [{"role": "system", "content": system}]
    seen: list[int] = []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        ids = prompt_ids(messages)
        assert ids[: len(seen)] == seen
        seen = [*ids, *TOKENIZER.encode(answer + END, add_special_tokens=False)]
        messages.append({"role": "assistant", "content": answer})


@pytest.mark.parametrize("arguments", [CALL["function"]["arguments"], '{"to": "bob", "body": "lunch is at 7"}'])
def test_a_tool_call_in_the_history_reads_as_it_was_written(arguments: Any) -> None:
    question = {"role": "user", "content": "email bob that lunch is at 7"}
    answer = '{"name": "email", "arguments": {"to": "bob", "body": "lunch is at 7"}}'
    call = {"type": "function", "function": {"name": "email", "arguments": arguments}}
    second = [
        question,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sent"},
    ]
    written = prompt_ids([question]) + TOKENIZER.encode(answer + END, add_special_tokens=False)
    assert prompt_ids(second)[: len(written)] == written


def test_tools_change_nothing_and_break_nothing() -> None:
    messages = [{"role": "user", "content": "hello"}]
    assert prompt_ids(messages, tools=[CALL]) == prompt_ids(messages)


def test_each_role_is_one_token_and_parts_are_joined() -> None:
    for role in ROLES:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        assert prompt_ids([{"role": role, "content": parts}]) == prompt_ids([{"role": role, "content": "ab"}])
        assert prompt_ids([{"role": role, "content": "ab"}])[0] == TOKENIZER.convert_tokens_to_ids(f"<|{role}|>")


def test_an_unknown_role_is_named() -> None:
    with pytest.raises(Exception, match="unknown role `pirate`"):
        prompt_ids([{"role": "pirate", "content": "arr"}])

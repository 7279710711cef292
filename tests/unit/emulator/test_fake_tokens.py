from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.emulator.protocol.fake_tokens import encode, encode_chat, expected_tokens, text_of, token_text

PROMPT = list(range(20))


def test_an_answer_follows_from_weights_prompt_and_position_alone() -> None:
    first = expected_tokens("w", PROMPT, 8, 1000)
    assert first == expected_tokens("w", PROMPT, 8, 1000)
    assert expected_tokens("w", PROMPT, 4, 1000) == first[:4]
    assert expected_tokens("v", PROMPT, 8, 1000) != first
    assert expected_tokens("w", [*PROMPT[:-1], 99], 8, 1000) != first
    assert all(0 <= t < 1000 for t in first)


@given(st.lists(st.integers(0, 200_000), max_size=30, unique=True))
def test_no_two_tokens_have_one_word(tokens: list[int]) -> None:
    assert len({token_text(t) for t in tokens}) == len(tokens)
    assert text_of(tokens).split() == [token_text(t).strip() for t in tokens]


@given(st.text(max_size=50), st.integers(1, 8))
def test_text_counts_a_token_for_every_few_bytes(text: str, size: int) -> None:
    ids = encode(text, bytes_per_token=size, vocab_size=1000)
    assert len(ids) == -(-len(text.encode()) // size)
    assert all(0 <= i < 1000 for i in ids)


def test_a_chat_counts_one_more_a_message_and_one_for_the_answer() -> None:
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}]
    assert len(encode_chat(chat, bytes_per_token=1, vocab_size=300)) == 5 + 2 + 2 + 1


def test_answer_whose_first_token_the_decode_worker_makes_follows_from_both_weights() -> None:
    first = expected_tokens("w", PROMPT, 8, 1000, decoder="d")
    assert first == expected_tokens("w", PROMPT, 8, 1000, decoder="d")
    others = [
        expected_tokens("w", PROMPT, 8, 1000),
        expected_tokens("w", PROMPT, 8, 1000, decoder="e"),
        expected_tokens("v", PROMPT, 8, 1000, decoder="d"),
        expected_tokens("w", [*PROMPT[:-1], 99], 8, 1000, decoder="d"),
    ]
    assert first not in others

"""Bounds of a prompt's length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.router.protocol.prompt_length import measure_prompt
from sun_sglang.router.protocol.request import Endpoint


@given(st.text(min_size=1, max_size=50))
def test_a_text_has_no_more_tokens_than_bytes_and_the_margin(text: str) -> None:
    size = measure_prompt(Endpoint.GENERATE, {"text": text})
    assert size is not None
    assert size.most > len(text.encode(errors="surrogatepass"))


def test_a_chat_with_a_picture_is_measured_like_any_other() -> None:
    content = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "y" * 5000}]
    size = measure_prompt(Endpoint.CHAT, {"messages": [{"role": "user", "content": content}]})
    assert size is not None
    assert size.most > 5000

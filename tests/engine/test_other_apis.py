"""Responses and Messages on real SGLang: equal to the chat completion of the same conversation."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import openai

from tests.engine.conftest import Deployment

MESSAGES: Any = [{"role": "user", "content": "hello there"}]
LENGTH = 12


def test_responses_and_messages_equal_the_chat_completion(deployment: Deployment) -> None:
    with (
        openai.OpenAI(base_url=f"{deployment.url}/v1", api_key="none", max_retries=0) as client,
        anthropic.Anthropic(base_url=deployment.url, api_key="none", max_retries=0) as claude,
        httpx.Client(base_url=deployment.url) as plain,
    ):
        settings: Any = {"model": "llama-a", "temperature": 0}
        chat = client.chat.completions.create(messages=MESSAGES, max_tokens=LENGTH, **settings)
        wanted, used = chat.choices[0].message.content, chat.usage
        assert wanted
        assert used is not None

        response = client.responses.create(input=MESSAGES, max_output_tokens=LENGTH, **settings)
        assert response.output_text == wanted
        assert response.usage is not None
        counts = (response.usage.input_tokens, response.usage.output_tokens)
        assert counts == (used.prompt_tokens, used.completion_tokens)
        events = list(client.responses.create(input=MESSAGES, max_output_tokens=LENGTH, stream=True, **settings))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == wanted
        assert events[-1].response.usage.output_tokens == used.completion_tokens

        # this client has no argument for the temperature
        greedy: Any = {"model": "llama-a", "extra_body": {"temperature": 0}}
        message = claude.messages.create(messages=MESSAGES, max_tokens=LENGTH, **greedy)
        assert [block.text for block in message.content if block.type == "text"] == [wanted]
        assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == used.prompt_tokens
        with claude.messages.stream(messages=MESSAGES, max_tokens=LENGTH, **greedy) as stream:
            final = stream.get_final_message()
        assert [block.text for block in final.content if block.type == "text"] == [wanted]
        assert final.stop_reason == message.stop_reason

        counted = claude.messages.count_tokens(model="llama-a", messages=MESSAGES)
        assert counted.input_tokens == used.prompt_tokens
        ids = plain.post("/tokenize", json={"model": "llama-a", "messages": MESSAGES}).json()
        assert ids["count"] == used.prompt_tokens
        text = plain.post("/detokenize", json={"model": "llama-a", "tokens": ids["tokens"]}).json()["text"]
        assert "hello there" in text

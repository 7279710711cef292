"""The prompt ids that SGLang's chat endpoint makes of requests; no server runs.

For a process of its own (`ask_sglang`): it changes SGLang's modules.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sglang.srt.entrypoints.openai import serving_chat
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest
from sglang.srt.parser import template_manager

from tests.support.chat_templates import tokenizer_with

SETTINGS = SimpleNamespace(default_chat_template_kwargs=None, hf_chat_template_name=None)


def prompt_of(template: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the prompt of a request to a server with a chat template."""
    manager = SimpleNamespace(
        tokenizer=tokenizer_with(template),
        processor=None,
        server_args=None,
        config_value=lambda _name: None,
        model_path="model",
        served_model_name="model",
        model_config=SimpleNamespace(
            hf_config=SimpleNamespace(model_type="qwen3", architectures=["Qwen3ForCausalLM"]),
            get_default_sampling_params=dict,
        ),
    )
    templates = template_manager.TemplateManager()
    templates.load_chat_template(manager, None, "model")
    chat = serving_chat.OpenAIServingChat(manager, templates)
    request = ChatCompletionRequest.model_validate({"model": "m", **body})
    try:
        ids = chat._process_messages(request, False).prompt_ids
    except ValueError:
        ids = None
    return {"ids": ids, "parts": templates.jinja_template_content_format == "openai"}


def prompts_of(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a prompt for each `{"template": ..., "body": ...}`.

    Its `ids` are None where the endpoint refuses the request, and `parts` is whether the template gets lists of content
    parts.
    """
    # read at each request: no server has published them
    for module in (serving_chat, template_manager):
        setattr(module, "get_serving", lambda: SETTINGS)  # noqa: B010 - the modules declare another type
    return [prompt_of(**request) for request in requests]

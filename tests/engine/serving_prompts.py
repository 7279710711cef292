"""Prints the prompt ids that SGLang's chat endpoint makes of requests; no server runs.

    python -m tests.engine.serving_prompts < requests.json

Input: a list of `{"template": ..., "body": ...}`. Output, one line: a list of `{"ids": ..., "parts": ...}`; `ids` is
null where the endpoint refuses the request, and `parts` is whether the template gets lists of content parts. A process
of its own: an import of the engine changes the process.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

from sun_sglang.cpu import has_gpu, prepare_cpu_engine

if not has_gpu():
    prepare_cpu_engine()

# after the CPU is prepared
from sglang.srt.entrypoints.openai import serving_chat  # isort: skip
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest  # isort: skip
from sglang.srt.parser import template_manager  # isort: skip
from tests.support.chat_templates import tokenizer_with  # isort: skip

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


if __name__ == "__main__":
    # read at each request: no server has published them
    for module in (serving_chat, template_manager):
        setattr(module, "get_serving", lambda: SETTINGS)  # noqa: B010 - the modules declare another type
    print(json.dumps([prompt_of(**request) for request in json.load(sys.stdin)]))  # noqa: T201 - the result

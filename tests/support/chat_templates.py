"""Chat templates of the kinds that models have, and a tokenizer for them."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerFast

from sun_sglang.demo.tokenizer import build_tokenizer

# ChatML with tools and reasoning: the last answer shows its reasoning, earlier ones do not
CHATML = """\
{%- if tools %}{{ '<|system|>' }}
{%- for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{%- endfor %}{{ '<|end|>\\n' }}{%- endif %}
{%- for message in messages %}
{{- '<|' ~ message.role ~ '|>\\n' }}
{%- if message.role == 'assistant' and loop.last -%}
{{ '<think>' ~ (message.reasoning_content or '') ~ '</think>' }}
{%- endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>' ~ (call.function | tojson) ~ '</tool_call>' }}
{%- endfor %}
{{- '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

# functions without OpenAI's wrapper, whole calls as JSON, tool results by the id of their call
FLAT = """\
{%- for tool in tools or [] %}{{ tool.name ~ ': ' ~ (tool.parameters | tojson) ~ '\\n' }}{% endfor %}
{%- for message in messages %}
{{- message.role ~ '=' ~ message.content ~ message.tool_call_id ~ '\\n' }}
{%- for call in message.tool_calls or [] %}{{ call | tojson }}{% endfor %}
{{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant=' }}{% endif %}"""

# content parts, as templates of models that also read images
PARTS = """\
{%- for message in messages %}
{{- '<|' ~ message.role ~ '|>' }}
{%- if message.content is string %}{{ message.content }}
{%- else %}{%- for part in message['content'] | list %}{{ '[' ~ part.text ~ ']' }}{% endfor %}{% endif %}
{{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

# refuses a system message and two turns of one role, as templates of Gemma and Mistral do
STRICT = """\
{%- for message in messages %}
{%- if message.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- message.role ~ ': ' ~ message.content ~ '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""

# opens the reasoning in its generation prompt and drops it from the history, as DeepSeek-R1's does
OPENED = """\
{%- for message in messages %}
{{- '<|' ~ message.role ~ '|>' ~ message.content.split('</think>')[-1] ~ '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|><think>' }}{% endif %}"""

# opens the reasoning, shows that of the last answer, and an empty block for none, as Qwen3-Thinking's does
THINKING = """\
{%- for message in messages %}
{{- '<|' ~ message.role ~ '|>\\n' }}
{%- if message.role == 'assistant' and loop.last %}
{%- set content, reasoning = message.content, message.reasoning_content or '' %}
{%- if '</think>' in content %}
{%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<think>\\n' ~ reasoning ~ '\\n</think>\\n\\n' ~ content }}
{%- else %}{{ message.content }}{% endif %}
{{- '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n<think>\\n' }}{% endif %}"""

# opens the reasoning or turns it off, and shows every answer without it, as DeepSeek-V3.1's does
SWITCHED = """\
{%- for message in messages %}
{{- '<|' ~ message.role ~ '|>' ~ ('</think>' if message.role == 'assistant') ~ message.content }}
{%- for call in message.tool_calls or [] %}[{{ call.function.name }}]{% endfor %}{{ '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' ~ ('<think>' if thinking else '</think>') }}{% endif %}"""


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    """Return the demo's tokenizer with another chat template."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    """Return a tool call in OpenAI's form."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}

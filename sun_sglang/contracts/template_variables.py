"""The names that are no variables of a chat template: arguments of the functions that render one.

They are transformers' `apply_chat_template` and `render_jinja_template`, and jinja2's `Template.render`. The renderer
passes them itself; SGLang answers 500 to some of them in `chat_template_kwargs`. A client writes that field in a
request, which the router checks (`router/protocol/fields/messages.py`), and a user in a recipe, which training checks
(`train/recipe.py`).
Training renders as serving does, so one list holds for both.
"""

from __future__ import annotations

RESERVED_VARIABLES = (
    "messages",
    "tools",
    "continue_final_message",
    "self",
    "conversation",
    "conversations",
    "chat_template",
    "add_generation_prompt",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
)

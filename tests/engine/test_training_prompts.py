"""Training's prompts beside those that SGLang's own OpenAI serving code makes of the same conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.demo.tokenizer import CHAT_TEMPLATE
from sun_sglang.errors import RecipeError
from sun_sglang.train.data.dataset import load_examples
from sun_sglang.train.data.rendering import ChatRenderer, loops_over_content
from sun_sglang.train.data.rows.conversation import conversation_of
from sun_sglang.train.recipe import Data
from tests.support.chat_templates import CHATML, FLAT, OPENED, PARTS, STRICT, WEATHER, call, tokenizer_with
from tests.support.sglang_questions import SGLangQuestions

# the whole tool as JSON: every field, in the order in which a template receives it
PRINTED = (
    "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{% for m in messages %}{{ m | tojson }}{% endfor %}"
)
TEMPLATES = {
    "demo": CHAT_TEMPLATE,
    "chatml": CHATML,
    "flat": FLAT,
    "parts": PARTS,
    "strict": STRICT,
    "opened": OPENED,
    "printed": PRINTED,
}
PARTED = [{"type": "text", "text": "first"}, {"type": "text", "text": "second"}]
USER = {"role": "user", "content": "Weather?"}
ANSWER = {"role": "assistant", "content": "Sunny."}
CALLS = {"role": "assistant", "content": None, "tool_calls": [call("weather", '{"b": 1, "a": [null]}', id="c1")]}
OTHER_CALLS = {"role": "assistant", "tool_calls": [call("weather", {"city": "x"}, id="c2"), call("other", {}, id="c3")]}
RESULTS = [
    {"role": "tool", "content": PARTED, "tool_call_id": "c3"},
    {"role": "tool", "content": "sun", "tool_call_id": "c2", "name": "weather"},
]
TOOLS = [
    WEATHER,
    {"type": "function", "function": {"strict": True, "name": "other", "description": "d"}},
    {"type": "function", "function": {"parameters": {}, "name": "third"}, "defer_loading": True},
]
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [USER, ANSWER]},
    "system": {"messages": [{"role": "system", "content": "s"}, USER, ANSWER]},
    "several turns": {"messages": [USER, ANSWER, {"role": "user", "content": "And now?", "name": "Ann"}, ANSWER]},
    "tools": {"messages": [USER, ANSWER], "tools": TOOLS},
    "no tools": {"messages": [USER, ANSWER], "tools": []},
    "tool calls": {
        "messages": [USER, CALLS, {"role": "tool", "content": None, "tool_call_id": "c1"}, ANSWER],
        "tools": TOOLS,
    },
    "several calls": {"messages": [USER, {"content": "Wait.", **OTHER_CALLS}, *RESULTS, ANSWER], "tools": TOOLS},
    "null content": {"messages": [USER, OTHER_CALLS, *RESULTS, ANSWER]},
    "parts": {"messages": [{"role": "user", "content": PARTED}, {**ANSWER, "content": PARTED}, USER, ANSWER]},
    "reasoning": {"messages": [USER, {**ANSWER, "reasoning_content": "Hm."}, USER, ANSWER]},
    "unknown keys": {
        "messages": [USER, {**ANSWER, "mood": "good", "refusal": None, "phase": "commentary"}, USER, ANSWER]
    },
    "two answers in a row": {"messages": [USER, ANSWER, ANSWER]},
    "developer": {"messages": [{"role": "developer", "content": "s", "name": "d"}, USER, ANSWER]},
}
NEXT = {"role": "user", "content": "Why?"}
FORMATS: dict[str, str] = {
    "messages.jsonl": json.dumps({"messages": [USER, ANSWER]}),
    "sharegpt.jsonl": json.dumps(
        {"conversations": [{"from": "human", "value": "Weather?"}, {"from": "gpt", "value": "Sunny."}]}
    ),
    "alpaca.json": json.dumps([{"instruction": "Weather?", "input": None, "output": "Sunny."}]),
    "trl.jsonl": json.dumps({"prompt": "Weather?", "completion": "Sunny."}),
    "trl-chat.jsonl": json.dumps({"prompt": [USER], "completion": [ANSWER]}),
    "pairs.csv": "question,answer\nWeather?,Sunny.\n",
}
NEXT_TURN = {"messages": [USER, ANSWER, NEXT]}
REQUESTS = {
    **{
        (template, name): {**row, "messages": row["messages"][:-1]}
        for template in TEMPLATES
        for name, row in CONVERSATIONS.items()
    },
    **{(template, "next turn"): NEXT_TURN for template in TEMPLATES},
}


@pytest.fixture(scope="module")
def served(ask_sglang: SGLangQuestions) -> dict[tuple[str, str], dict[str, Any]]:
    """Return SGLang's prompt of each request."""
    asked = [{"template": TEMPLATES[template], "body": body} for (template, _), body in REQUESTS.items()]
    return dict(zip(REQUESTS, ask_sglang("tests.engine.serving_prompts:prompts_of", asked), strict=True))


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_training_makes_the_prompt_that_serving_makes(served: Any, template: str, name: str) -> None:
    row, tokenizer = CONVERSATIONS[name], tokenizer_with(TEMPLATES[template])
    # the prompt alone: the answer is a text, so that no template has to render it
    asked = {"prompt": row["messages"][:-1], "completion": "x", **({"tools": row["tools"]} if "tools" in row else {})}
    (turn,) = conversation_of(asked, Data(file="f"), "row").turns
    ids = served[template, name]["ids"]
    if ids is None:
        with pytest.raises(RecipeError, match="row: the chat template refuses the messages"):
            ChatRenderer(tokenizer).encode(turn, "row")
        return
    trained = list(ChatRenderer(tokenizer).encode(turn, "row").example.prompt)
    assert tokenizer.decode(trained) == tokenizer.decode(ids)
    assert trained == ids


@pytest.mark.parametrize("template", TEMPLATES)
def test_training_and_serving_agree_on_content_parts(served: Any, template: str) -> None:
    assert loops_over_content(TEMPLATES[template]) == served[template, "plain"]["parts"]


@pytest.mark.parametrize("template", ["demo", "parts", "strict"])
@pytest.mark.parametrize("name", FORMATS)
def test_prompt_and_loss_are_what_serving_sends_in_the_next_turn(
    served: Any, tmp_path: Path, template: str, name: str
) -> None:
    (tmp_path / name).write_text(FORMATS[name])
    (tmp_path / "other.jsonl").write_text('{"prompt": "another", "completion": "example"}')
    tokenizer = tokenizer_with(TEMPLATES[template])
    data = Data(file=str(tmp_path / name), validation_file=str(tmp_path / "other.jsonl"))
    (example,) = load_examples(data, tokenizer, 0).train
    assert tokenizer.decode(list(example.answer)) == "Sunny.<|end|>"
    trained = [*example.prompt, *example.answer]
    assert served[template, "next turn"]["ids"][: len(trained)] == trained

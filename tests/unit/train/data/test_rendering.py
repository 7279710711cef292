"""From turns to token ids: the prompt as serving sends it, and what gets a loss."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace
from transformers import PreTrainedTokenizerFast

from sun_sglang.errors import RecipeError
from sun_sglang.train.data.rendering import ChatRenderer, Encoded, loops_over_content
from sun_sglang.train.data.rows.conversation import conversation_of
from sun_sglang.train.recipe import Data
from tests.support.chat_templates import CHATML, FLAT, OPENED, PARTS, STRICT, WEATHER, call, tokenizer_with

PLAIN = """\
{%- for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\\n\\n' }}{% endfor -%}
{%- if add_generation_prompt %}assistant:{% endif %}"""
USER = {"role": "user", "content": "w"}
CALLS = {"role": "assistant", "content": "", "tool_calls": [call("weather", {"city": "x"})]}


def encode(template: str, row: dict[str, Any], **kwargs: Any) -> list[Encoded]:
    renderer = ChatRenderer(tokenizer_with(template), **kwargs)
    data = Data(file="f", turns="all")
    return [renderer.encode(turn, "d.jsonl:7") for turn in conversation_of(row, data, "d.jsonl:7").turns]


def texts(template: str, row: dict[str, Any], **kwargs: Any) -> list[tuple[str, str]]:
    decode = tokenizer_with(template).decode
    found = [encoded.example for encoded in encode(template, row, **kwargs)]
    assert all(example.where == "d.jsonl:7" for example in found)
    return [(decode(list(e.prompt)), decode(list(e.answer))) for e in found]


def test_tool_calls_are_learned_as_the_template_writes_them() -> None:
    ((prompt, loss),) = texts(CHATML, {"messages": [USER, CALLS], "tools": [WEATHER]})
    listed, _, rest = prompt.removeprefix("<|system|>").partition("\n")
    assert json.loads(listed)["function"]["name"] == "weather"
    assert rest == "<|end|>\n<|user|>\nw<|end|>\n<|assistant|>\n"
    assert loss == '<think></think><tool_call>{"name": "weather", "arguments": {"city": "x"}}</tool_call><|end|>'


def test_every_turn_of_a_conversation_with_tools_continues_the_one_before() -> None:
    result = {"role": "tool", "content": "sun", "tool_call_id": "1"}
    chat = [USER, CALLS, result, {"role": "assistant", "content": "Sunny."}]
    first, last = texts(FLAT, {"messages": chat, "tools": [WEATHER]})
    whole_call = json.dumps({"id": None, "index": None, **call("weather", {"city": "x"})})
    assert first[1] == f"\n{whole_call}<|end|>"
    assert last == (f"{''.join(first)}tool=sun1\n<|end|>assistant=", "Sunny.\n<|end|>")


def test_an_answer_as_text_is_learned_as_it_is() -> None:
    ((_, loss),) = texts(CHATML, {"prompt": "w", "completion": " It\nrains. "})
    assert loss == " It\nrains. <|end|>"


def test_reasoning_is_learned_where_the_template_shows_it() -> None:
    answer = {"role": "assistant", "content": "Sunny.", "reasoning_content": "Look outside."}
    assert texts(CHATML, {"messages": [USER, answer]})[0][1] == "<think>Look outside.</think>Sunny.<|end|>"


def test_variables_of_the_recipe_reach_the_template() -> None:
    template = CHATML.replace("'<|assistant|>\\n'", "'<|assistant|>\\n' ~ ('' if thinking else '<think></think>')")
    row = {"messages": [USER, {"role": "assistant", "content": "Sunny."}]}
    assert texts(template, row)[0][1] == "Sunny.<|end|>"
    assert texts(template, row, template_kwargs={"thinking": True})[0][1] == "<think></think>Sunny.<|end|>"


def test_an_answer_ends_where_serving_stops() -> None:
    row = {"messages": [USER, {"role": "assistant", "content": "Sunny. "}]}
    assert texts(PLAIN, row)[0][1] == " Sunny. <|end|>", "a template without an end token gets the tokenizer's"
    other = CHATML.replace("<|end|>", "<|reserved_1|>")
    assert texts(other, row)[0][1] == "<think></think>Sunny. <|end|>"
    end = tokenizer_with(other).convert_tokens_to_ids("<|reserved_1|>")
    assert texts(other, row, end_tokens=[end])[0][1] == "<think></think>Sunny. <|reserved_1|>"


def test_content_parts_are_given_as_the_template_reads_them() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": parts}]
    assert texts(PARTS, {"messages": chat}) == [("<|user|>[a][b]<|end|><|assistant|>", "[a][b]<|end|>")]
    assert texts(STRICT, {"messages": chat}) == [("user: a b<|end|>assistant: ", "a b<|end|>")]


@pytest.mark.parametrize(
    ("template", "loops"),
    [
        ("{% for c in message['content'] %}{% endfor %}", True),
        ("{% for c in message.content[1:] | list %}{% endfor %}", True),
        ("{% for c in msg.content %}{% generation %}{% endgeneration %}{% endfor %}", True),
        ("{% for c in m['content'] %}{% break %}{% endfor %}", True),
        ("{% for c in entry.content %}{% endfor %}", False),
        ("{% set content = message.content %}{% for c in content %}{% endfor %}", False),
        ("{{ '<image>' }}", True),
        ("{% for %}", False),
    ],
)
def test_templates_that_loop_over_content_are_found(template: str, loops: bool) -> None:
    assert loops_over_content(template) is loops


def test_a_template_that_drops_tool_calls_is_refused_and_one_that_drops_tools_noted() -> None:
    with pytest.raises(RecipeError, match=r"d.jsonl:7: the chat template does not render `tool_calls`"):
        encode(PLAIN, {"messages": [USER, CALLS]})
    answered = {"messages": [USER, CALLS, {"role": "assistant", "content": "x", "weight": 1}], "tools": [WEATHER]}
    answered["messages"][1] = {**CALLS, "weight": 0}
    (encoded,) = encode(PLAIN, answered)
    assert encoded.notes == {
        "prompts end with an assistant message, which SGLang gives to the template as the user's",
        "the chat template does not render `tools`: neither training nor serving shows them to the model",
    }
    (encoded,) = encode(CHATML, {"messages": [USER, {"role": "assistant", "content": ""}]})
    assert encoded.notes == {"the answer is empty: only its end has a loss"}


def test_a_template_that_marks_a_tool_call_and_drops_it_is_refused() -> None:
    marking = CHATML.replace("'<tool_call>' ~ (call.function | tojson) ~ '</tool_call>'", "'[CALL]' ~ message.content")
    with pytest.raises(RecipeError, match=r"d.jsonl:7: the chat template does not render `tool_calls`"):
        encode(marking, {"messages": [USER, CALLS], "tools": [WEATHER]})


def test_earlier_tool_calls_that_a_template_drops_are_noted() -> None:
    result, answer = {"role": "tool", "content": "sun"}, {"role": "assistant", "content": "Sunny."}
    chat = [USER, {**CALLS, "weight": 0}, result, answer]
    (encoded,) = encode(PLAIN, {"messages": chat})
    assert encoded.notes == {"the chat template does not render the tool calls of earlier messages"}


@pytest.mark.parametrize(
    ("template", "chat", "reason"),
    [
        (STRICT, [{"role": "system", "content": "s"}, USER], "System role not supported"),
        (STRICT, [USER, USER], "roles must alternate"),
        ("{{ messages[0].name | upper + 1 }}", [USER], "str"),
        ("{{ messages[9].content }}", [USER], "has no element 9"),
    ],
)
def test_a_template_that_refuses_messages_is_named_with_row_and_reason(
    template: str, chat: list[Any], reason: str
) -> None:
    with pytest.raises(RecipeError, match=rf"d.jsonl:7: the chat template refuses the messages \(.*{reason}"):
        encode(template, {"messages": [*chat, {"role": "assistant", "content": "x"}]})


def test_a_template_that_writes_the_date_is_noted_unless_the_recipe_sets_it() -> None:
    dated = "{{ date_string or strftime_now('%d %b %Y') }}" + PLAIN
    (encoded,) = encode(dated, {"prompt": "a", "completion": "b"})
    assert any("may write the date" in note for note in encoded.notes)
    (encoded,) = encode(dated, {"prompt": "a", "completion": "b"}, template_kwargs={"date_string": "26 Jul 2024"})
    assert not encoded.notes


def test_marks_of_a_template_for_other_trainers_have_no_effect() -> None:
    marked = CHATML.replace("{{- message.content }}", "{% generation %}{{- message.content }}{% endgeneration %}")
    row = {"messages": [USER, {"role": "assistant", "content": "Sunny."}]}
    assert texts(marked, row) == texts(CHATML, row)


def test_a_broken_template_is_named_with_its_line() -> None:
    with pytest.raises(RecipeError, match="chat_template: line 2: "):
        encode("\n{% for %}", {"prompt": "a", "completion": "b"})


def test_an_answer_that_the_history_shows_otherwise_is_learned_as_its_text() -> None:
    other = OPENED.replace("'<|' ~ message.role ~ '|>'", "message.role").replace("<think>", "")
    ((_, loss),) = texts(other, {"messages": [USER, {"role": "assistant", "content": "Sunny."}]})
    assert loss == "Sunny.<|end|>"
    (note,) = encode(other, {"messages": [USER, {"role": "assistant", "content": "Sunny."}]})[0].notes
    assert "is learned as it is" in note
    with pytest.raises(RecipeError, match="does not continue its generation prompt"):
        encode(other, {"messages": [USER, CALLS]})


def test_a_part_of_an_answer_that_the_template_drops_is_noted() -> None:
    dropping = CHATML.replace("{{- message.content }}", "{{- '' if message.tool_calls else message.content }}")
    answer = {**CALLS, "content": "Let me look.", "reasoning_content": "Hm."}
    dropping = dropping.replace("'<think>' ~ (message.reasoning_content or '') ~ '</think>'", "''")
    (encoded,) = encode(dropping, {"messages": [USER, answer]})
    assert encoded.notes == {
        "the chat template does not render the whole `content` of an answer",
        "the chat template does not render the whole `reasoning_content` of an answer",
    }


def test_an_answer_gets_no_space_that_a_tokenizer_adds_to_the_start_of_a_text() -> None:
    characters = ["▁", "<|end|>", *"abcdefghijklmnopqrstuvwxyz:"]
    backend = Tokenizer(BPE({c: i for i, c in enumerate(characters)}, []))
    backend.pre_tokenizer = Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    backend.add_special_tokens(["<|end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", chat_template="bot:")
    (turn,) = conversation_of({"prompt": "a", "completion": "so"}, Data(file="f"), "row").turns
    example = ChatRenderer(tokenizer).encode(turn, "row").example
    assert tokenizer.convert_ids_to_tokens(list(example.answer)) == ["s", "o", "<|end|>"]


@pytest.mark.parametrize("row", [{"prompt": "a \ud83d", "completion": "b"}, {"prompt": "a", "completion": "\udc00b"}])
def test_half_a_surrogate_pair_is_named(row: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"d.jsonl:7: character \d+ of the rendered text is half of a surrogate pair"):
        encode(CHATML, row)

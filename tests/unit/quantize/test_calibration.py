from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.errors import QuantizeError
from sun_sglang.quantize.calibration import Samples, Source, draw_samples
from tests.support.quantize import ROWS


def draw(model: Path, name: Path | str, prompt: str | None = None, **change: Any) -> Samples:
    settings = {"calibration": 8, "held_out": 4, "max_tokens": 512, "seed": 0, **change}
    response = None if prompt is None else "answer"
    return draw_samples(Source(str(name), prompt=prompt, response=response), model, **settings)


def test_samples_are_drawn_once_from_all_rows_and_follow_seed(source: Path) -> None:
    chats = source / "chats.jsonl"
    found = draw(source, chats, "messages")
    assert (len(found.calibration), len(found.held_out), found.rows) == (8, 4, ROWS)
    assert len({*found.calibration, *found.held_out}) == 12
    assert draw(source, chats, "messages") == found
    assert draw(source, chats, "messages", seed=1).calibration != found.calibration
    everything = draw(source, chats, "messages", calibration=36)
    assert {*found.calibration, *found.held_out} < {*everything.calibration, *everything.held_out}


def test_chat_sample_is_prompt_and_answer_as_template_renders_them(source: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    (tmp_path / "a.jsonl").write_text((json.dumps({"messages": messages}) + "\n") * 2)
    tokenizer = AutoTokenizer.from_pretrained(source)
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.decode(draw(source, tmp_path / "a.jsonl").calibration[0])
    assert whole.startswith(prompt + "ho")
    assert len(draw(source, tmp_path / "a.jsonl", max_tokens=3).calibration[0]) == 3


def test_few_rows_are_split_with_tenth_held_out(source: Path) -> None:
    found = draw(source, source / "chats.jsonl", "messages", calibration=100, held_out=16)
    assert (len(found.calibration), len(found.held_out)) == (36, 4)
    alone = draw(source, source / "chats.jsonl", "messages", calibration=0, held_out=50)
    assert (len(alone.calibration), len(alone.held_out)) == (0, 40)


def test_empty_or_missing_data_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(QuantizeError, match=r"a\.jsonl: has no rows, and at least 2 are needed"):
        draw(source, tmp_path / "a.jsonl")
    with pytest.raises(QuantizeError, match=r"b\.jsonl: no such file"):
        draw(source, tmp_path / "b.jsonl")


def test_chats_without_template_are_refused_and_texts_are_not(source: Path, tmp_path: Path) -> None:
    model = tmp_path / "m"
    shutil.copytree(source, model)
    (model / "chat_template.jinja").unlink()
    with pytest.raises(QuantizeError, match=r"the tokenizer of .* has no chat template; put a chat_template\.jinja"):
        draw(model, source / "chats.jsonl", "messages")
    (tmp_path / "texts.jsonl").write_text('{"text": "one two"}\n{"text": "three"}\n')
    assert len(draw(model, tmp_path / "texts.jsonl").calibration) == 1


def test_row_of_unknown_format_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    with pytest.raises(QuantizeError, match=r"--calibration: .*a\.jsonl:2: data: the columns `body`"):
        draw(source, tmp_path / "a.jsonl")


def test_half_of_a_surrogate_pair_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b\\ud800"}\n')
    with pytest.raises(QuantizeError, match=r"a\.jsonl:2: character 2 of `text` is half of a surrogate pair"):
        draw(source, tmp_path / "a.jsonl")


def test_token_that_model_lacks_is_named(source: Path, tmp_path: Path) -> None:
    model = tmp_path / "m"
    shutil.copytree(source, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 3}))
    with pytest.raises(QuantizeError, match="and the model has 3 embeddings"):
        draw(model, source / "chats.jsonl", "messages")

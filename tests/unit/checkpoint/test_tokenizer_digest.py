import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.checkpoint.tokenizer_digest import chat_template_digest, tokenizer_digest
from sun_sglang.errors import CheckpointError

END = {"id": 3, "content": "<end>", "special": True}
CALL = {"content": "<call>", "special": False}


def bpe(**changes: Any) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    return {"version": "1.0", "added_tokens": [END], "model": {**model, **changes}}


@pytest.fixture
def digest_of(tmp_path: Path) -> Callable[..., str]:
    numbers = iter(range(100))

    def digest(tokenizer: Any, **settings: Any) -> str:
        model = tmp_path / str(next(numbers))
        model.mkdir()
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        if settings:
            (model / "tokenizer_config.json").write_text(json.dumps(settings))
        return tokenizer_digest(model)

    return digest


@pytest.mark.parametrize(
    "other",
    [
        bpe(merges=[["a", "b"]]),
        bpe(fuse_unk=False, byte_fallback=False, ignore_merges=False, dropout=None, end_of_word_suffix=""),
        {**bpe(), "normalizer": None, "padding": {"strategy": "BatchLongest"}, "truncation": {"max_length": 5}},
        {**bpe(), "decoder": {"type": "ByteLevel"}},
        dict(reversed(bpe().items())),
    ],
    ids=["merges as pairs", "defaults written out", "after a padded call", "other decoder", "other order"],
)
def test_tokenizer_in_another_form_has_the_same_digest(digest_of: Callable[..., str], other: dict[str, Any]) -> None:
    assert digest_of(other) == digest_of(bpe())


@pytest.mark.parametrize(
    "other",
    [
        bpe(merges=["b a"]),
        bpe(merges=[["a", "b"], ["ab", "a"]]),
        bpe(vocab={"a": 1, "b": 0, "ab": 2}),
        bpe(byte_fallback=True),
        bpe(unk_token=""),
        {**bpe(), "added_tokens": []},
        {**bpe(), "normalizer": {"type": "NFC"}},
    ],
)
def test_tokenizer_with_other_tokens_has_another_digest(digest_of: Callable[..., str], other: dict[str, Any]) -> None:
    assert digest_of(other) != digest_of(bpe())


def test_merge_of_tokens_with_spaces_is_not_taken_for_another(digest_of: Callable[..., str]) -> None:
    assert digest_of(bpe(merges=[["a b", "c"]])) != digest_of(bpe(merges=[["a", "b c"]]))


def test_token_that_the_settings_add_counts_wherever_it_stands(digest_of: Callable[..., str]) -> None:
    added = digest_of({**bpe(), "added_tokens": [END, {"id": 4, **CALL}]})
    assert digest_of(bpe(), added_tokens_decoder={"3": {"content": "<end>"}, "4": CALL}) == added
    assert digest_of(bpe()) != added


@pytest.mark.parametrize("broken", [{"added_tokens": [1]}, {"model": {"merges": 1}}, {"model": {"merges": [[1, 2]]}}])
def test_file_that_is_no_tokenizer_is_named(digest_of: Callable[..., str], broken: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is not a tokenizer"):
        digest_of(broken)


def test_chat_template_in_another_form_has_the_same_digest(tmp_path: Path) -> None:
    contents = {
        "chat_template.jinja": "{{ messages }}\n",
        "tokenizer_config.json": json.dumps({"chat_template": [{"name": "default", "template": "{{ messages }}"}]}),
    }
    digests = set()
    for name, content in contents.items():
        model = tmp_path / name
        model.mkdir()
        (model / name).write_text(content)
        digests.add(chat_template_digest(model))
    assert len(digests) == 1
    assert digests != {""}


@pytest.fixture
def template_digest_of(tmp_path: Path) -> Callable[..., str]:
    numbers = iter(range(100))

    def digest(files: dict[str, str]) -> str:
        model = tmp_path / f"template-{next(numbers)}"
        for name, content in files.items():
            (model / name).parent.mkdir(parents=True, exist_ok=True)
            (model / name).write_text(content)
        return chat_template_digest(model)

    return digest


def test_chat_templates_saved_again_as_files_have_the_same_digest(template_digest_of: Callable[..., str]) -> None:
    listed = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    old = {"tokenizer_config.json": json.dumps({"chat_template": listed})}
    new = {"chat_template.jinja": "plain", "additional_chat_templates/tool_use.jinja": "tools"}
    assert template_digest_of(old) == template_digest_of(new)
    assert template_digest_of(new) != template_digest_of({**new, "additional_chat_templates/tool_use.jinja": "other"})


def test_chat_template_that_writes_another_special_token_has_another_digest(
    template_digest_of: Callable[..., str],
) -> None:
    def digest(template: str, **tokens: Any) -> str:
        return template_digest_of({"tokenizer_config.json": json.dumps({"chat_template": template, **tokens})})

    assert digest("{{ eos_token }}", eos_token="<end>") != digest("{{ eos_token }}", eos_token="<turn>")
    assert digest("{{ eos_token }}", eos_token="<end>") == digest("{{ eos_token }}", eos_token={"content": "<end>"})
    assert digest("{{ messages }}", eos_token="<end>") == digest("{{ messages }}", eos_token="<turn>")


@pytest.mark.parametrize(
    ("files", "place"),
    [
        ({"chat_template.jinja": "a\n{% if %}"}, "`default`: line 2: "),
        ({"chat_template.jinja": "a", "additional_chat_templates/tool_use.jinja": "{{"}, "`tool_use`: line 1: "),
        ({"tokenizer_config.json": json.dumps({"chat_template": "{% endif %}"})}, "`default`: line 1: "),
    ],
)
def test_chat_template_with_a_syntax_error_is_named(
    template_digest_of: Callable[..., str], files: dict[str, str], place: str
) -> None:
    with pytest.raises(CheckpointError, match=f"the chat template {place}"):
        template_digest_of(files)


def test_tags_of_transformers_are_no_syntax_error(template_digest_of: Callable[..., str]) -> None:
    template = "{% for m in messages %}{% generation %}{{ m }}{% break %}{% endgeneration %}{% endfor %}"
    assert template_digest_of({"chat_template.jinja": template})


def test_special_token_in_the_map_of_version_4_counts(template_digest_of: Callable[..., str]) -> None:
    template = {"chat_template.jinja": "{{ bos_token }}"}
    old = template | {"special_tokens_map.json": json.dumps({"bos_token": "<s>"})}
    new = template | {"tokenizer_config.json": json.dumps({"bos_token": "<s>"})}
    assert template_digest_of(old) == template_digest_of(new) != template_digest_of(template)

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.errors import CheckpointError
from sun_sglang.tokenizer_digest import chat_template_digest, tokenizer_digest

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

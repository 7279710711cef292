"""The speculative algorithms and architectures that the installed SGLang combines with a decode cache."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from sun_sglang.launch.planning.decode_cache.architectures import keeps_states, refuses_decode_cache

# A process of its own: SGLang's checks change the process that calls them.
ASK = """
import json
from sun_sglang.worker.server import prepare_process
prepare_process()
from sun_sglang.launch.planning.flags.speculative import speculative_with_cache
print(json.dumps(speculative_with_cache()))
"""

# SGLang decides with the whole configuration of a model, of which the names alone matter here.
ASK_ARCHITECTURES = r"""
import ast, inspect, json, re
from types import SimpleNamespace
from sun_sglang.worker.server import prepare_process
prepare_process()
from sglang.srt.arg_groups.overrides import _MAMBA_RADIX_CACHE_ARCHS
from sglang.srt.configs import model_config
model_config.get_hybrid_layer_ids = lambda *_: ([], [])
strings = [n.value for n in ast.walk(ast.parse(inspect.getsource(model_config))) if isinstance(n, ast.Constant)]
refused = {}
for name in strings:
    if isinstance(name, str) and re.fullmatch(r"[A-Z]\w*(For[A-Z]|MTP|Model|NextN)\w*", name):
        model = SimpleNamespace(
            hf_config=SimpleNamespace(architectures=[name]),
            hf_text_config=SimpleNamespace(layer_types=["sliding_attention"], sliding_window=1),
            disable_hybrid_swa_memory=False,
            _detect_attention_sinks=lambda: False,
        )
        model_config.ModelConfig._derive_hybrid_model(model)
        special = getattr(model, "is_deepseek_v4_arch", False) or model.is_hybrid_swa_compress
        refused[name] = bool(model.is_hybrid_swa and special)
print(json.dumps({"refused": refused, "states": sorted(_MAMBA_RADIX_CACHE_ARCHS)}))
"""


def ask(script: str) -> Any:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_architectures_by_what_sglang_does_with_their_decode_cache_are_its_own() -> None:
    told = ask(ASK_ARCHITECTURES)
    refused = told["refused"]
    assert refused["DeepseekV4ForCausalLM"]
    assert not refused["GptOssForCausalLM"]
    assert {name for name in refused if refuses_decode_cache(name) != refused[name]} == set()
    assert {name for name in told["states"] if not keeps_states(name)} == set()
    assert not any(
        map(keeps_states, ("LlamaForCausalLM", "Qwen3ForCausalLM", "GptOssForCausalLM", "DeepseekV3ForCausalLM"))
    )


def test_speculative_algorithms_beside_the_decode_cache_are_told_apart_by_sglangs_own_checks() -> None:
    taken = set(ask(ASK))
    assert "DSPARK" in taken
    assert not taken & {"NGRAM", "STANDALONE", "DFLASH", "FROZEN_KV_MTP"}
    assert ("EAGLE" in taken) == ("NEXTN" in taken), "one algorithm under two names"

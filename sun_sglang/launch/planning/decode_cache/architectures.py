"""The architectures for which SGLang limits the cache of a decode worker.

Read from `mem_cache/kv_cache_builder.py` (0.5.21 and 0.5.22: `build_kv_cache`, 0.5.23: `validate_decode_radix_cache`),
`configs/model_config.py` (`is_deepseek_v4_arch`, `is_hybrid_swa_compress`) and `arg_groups/overrides.py`
(`_MAMBA_RADIX_CACHE_ARCHS`). The three versions agree on NVIDIA GPUs. `tests/engine/test_decode_cache.py` compares the
lists with the installed SGLang. Each entry is the beginning of a name: it covers a model, its multimodal form and its
draft.
"""

from __future__ import annotations

# a worker with a decode cache does not start
_REFUSED = (
    *("DeepseekV4", "DiffusionGemma", "EmbeddingGemma2", "Gemma4", "Inkling"),
    *("MiMoV2Flash", "MiMoV2For", "MiMoV2MTP"),
)
# models with recurrent (Mamba, linear attention) layers
_STATES = (
    *("BailingMoeV2_5", "BailingMoeV3", "FalconH1", "GigaChat35", "Glm5Next", "GraniteMoeHybrid", "InternS2"),
    *("JetNemotron", "JetVLM", "KimiK3", "KimiLinear", "Lfm2", "MiniCPMV4_6", "MiniCPMV4_7", "NemotronH"),
    *("Qwen3Next", "Qwen3_5", "Qwen4Exp", "Zaya"),
)


def refuses_decode_cache(architecture: str) -> bool:
    """Return whether SGLang refuses to start a decode worker with a radix cache for this architecture."""
    return architecture.startswith(_REFUSED)


def keeps_states(architecture: str) -> bool:
    """Return whether the model has recurrent layers, whose state belongs to one length of a prompt."""
    return architecture.startswith(_STATES)

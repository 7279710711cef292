"""The architectures for which SGLang refuses its decode cache, so that a worker with one would not start.

Read from `mem_cache/kv_cache_builder.py` (0.5.21 and 0.5.22: `build_kv_cache`, 0.5.23: `validate_decode_radix_cache`)
and `configs/model_config.py` (`is_deepseek_v4_arch`, `is_hybrid_swa_compress`). The three versions agree on NVIDIA
GPUs. `tests/engine/test_decode_cache.py` asks the installed SGLang for the architectures that it refuses.
"""

from __future__ import annotations

# each covers a family: the model, its multimodal form and its draft
_REFUSED = (
    *("DeepseekV4", "DiffusionGemma", "EmbeddingGemma2", "Gemma4", "Inkling"),
    *("MiMoV2Flash", "MiMoV2For", "MiMoV2MTP"),
)


def refuses_decode_cache(architecture: str) -> bool:
    """Return whether SGLang refuses to start a decode worker with a radix cache for this architecture."""
    return architecture.startswith(_REFUSED)

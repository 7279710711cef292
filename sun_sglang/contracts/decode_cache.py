"""The decode cache of prompts, and the SGLang flags that keep the KV of answers outside of it.

The launcher selects the cache (`launch/planning/decode_cache/`), a hook registers it in SGLang
(`patches/cache/prompt_only_cache.py`), and the worker card reports whether a worker keeps answers
(`worker/card_page.py`).
"""

from __future__ import annotations

from typing import Final

PROMPT_ONLY_BACKEND: Final = "sun_prompt_only"
"""Value of SGLang's `--radix-cache-backend` that selects the prompt-only cache."""

ANSWER_STORE_FLAGS: Final = (
    "disaggregation_decode_enable_offload_kvcache",
    "enable_hierarchical_cache",
    "enable_unified_cache_external_linker",
    "enable_lmcache",
    "enable_flexkv",
)
"""Flags with which a decode worker keeps the KV of answers in a store that the prompt-only cache does not bound."""

from __future__ import annotations

import pytest

from sun_sglang.checkpoint.kv.size import kv_bytes_per_token
from sun_sglang.contracts.worker_card import Identity


def identity(kv_dtype: str) -> Identity:
    return Identity(
        architecture="LlamaForCausalLM",
        num_layers=3,
        num_kv_heads=2,
        head_dim=16,
        vocab_size=512,
        rope="{}",
        kv_dtype=kv_dtype,
        page_size=1,
        tp_size=1,
        tokenizer="t",
        chat_template="c",
        sglang="",
        weights="w",
    )


@pytest.mark.parametrize(
    ("kv_dtype", "bytes_per_value"),
    [("float32", 4), ("bfloat16", 2), ("float16", 2), ("fp8_e4m3", 1), ("fp8_e5m2", 1), ("a dtype of later", 4)],
)
def test_kv_bytes_per_token_of_each_dtype_count_keys_and_values(kv_dtype: str, bytes_per_value: int) -> None:
    assert kv_bytes_per_token(identity(kv_dtype)) == 2 * 3 * 2 * 16 * bytes_per_value

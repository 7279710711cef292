from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.checkpoint.kv.layout import attention_ranks, moves_between_ranks, rope
from sun_sglang.contracts.kv_compatibility import require_same
from sun_sglang.errors import IdentityError

MLA = {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
QWEN = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}


@pytest.mark.parametrize(
    ("config", "engine", "flag", "moves"),
    [
        ({"num_key_value_heads": 8}, {}, "auto", True),
        ({"num_key_value_heads": 8}, {}, "fp8_e4m3", True),
        ({**QWEN, "layer_types": ["full_attention"] * 2}, {}, "auto", True),
        ({"sliding_window": None}, {}, "auto", True),
        ({"decoder_sparse_step": 1, "mlp_only_layers": [], "num_experts": 128}, {}, "auto", True),
        (MLA, {}, "auto", True),
        ({**MLA, "index_topk": 2048}, {}, "bfloat16", True),
        ({}, {}, "mxfp8", False),
        ({}, {}, "nvfp4", False),
        ({}, {"speculative_algorithm": "EAGLE"}, "auto", False),
        ({"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"]}, {}, "auto", False),
        ({"sliding_window": 4096}, {}, "auto", False),
        ({"layer_types": ["linear_attention", "full_attention"]}, {}, "auto", False),
        ({"full_attention_interval": 4, "linear_num_key_heads": 16}, {}, "auto", False),
        ({"hybrid_override_pattern": "M-M*-"}, {}, "auto", False),
        ({**MLA, "linear_attn_config": {"kda_layers": [1]}}, {}, "auto", False),
        ({"sparse_attention_config": {"use_sparse_attention": True}}, {}, "auto", False),
        ({"attention_chunk_size": 8192}, {}, "auto", False),
    ],
)
def test_kv_moves_between_other_numbers_of_ranks_for_plain_attention_alone(
    config: dict[str, Any], engine: dict[str, Any], flag: str, moves: bool
) -> None:
    assert moves_between_ranks(config, engine, flag) is moves


def test_rope_of_phi_saved_again_is_the_same() -> None:
    factors = {"short_factor": [1.0], "long_factor": [1.5]}
    old = {"rope_theta": 1e4, "rope_scaling": {"type": "longrope", **factors}, "original_max_position_embeddings": 4096}
    inside = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 4096, **factors}
    assert rope(old) == rope({"rope_parameters": inside, "original_max_position_embeddings": 4096})
    assert rope(old) == rope({"rope_parameters": inside})
    assert rope(old) != rope({**old, "original_max_position_embeddings": 8192})


@pytest.mark.parametrize(
    ("engine", "ranks"),
    [
        ({}, 1),
        ({"tp_size": 4}, 4),
        ({"tp": 4}, 4),
        ({"tp_size": 8, "dp_size": 2}, 8),
        ({"tp_size": 8, "dp_size": 4, "enable_dp_attention": True}, 2),
        ({"tp_size": 8, "dp_size": 1, "attn_dp_size": 4, "enable_dp_attention": True}, 2),
        ({"tp_size": 8, "attn_cp_size": 2}, 4),
    ],
)
def test_attention_ranks_are_those_of_one_attention_group(engine: dict[str, Any], ranks: int) -> None:
    assert attention_ranks(engine) == ranks


@pytest.mark.parametrize(
    ("prefill", "decode", "config", "refusal"),
    [
        ({}, {"tp_size": 2}, {}, None),
        ({"tp_size": 4}, {"tp_size": 2}, {}, None),
        ({"tp_size": 8}, {"tp_size": 8, "dp_size": 8, "enable_dp_attention": True}, MLA, None),
        (
            {"tp_size": 3},
            {"tp_size": 2},
            {},
            "tp_size differs (math: 3, base: 2); one of the two must be a multiple of",
        ),
        ({}, {"tp_size": 2}, {"sliding_window": 64}, "tp_size differs (math: 1, base: 2); SGLang moves KV between"),
        ({"pp_size": 2}, {}, {}, None),
        ({}, {"pp_size": 2}, {}, "pp_size differs (math: 1, base: 2); the decode side has as many pipeline ranks, or"),
    ],
)
def test_sides_with_other_ranks_pair_where_sglang_transfers_kv(
    write_checkpoint: Callable[..., Path],
    prefill: dict[str, Any],
    decode: dict[str, Any],
    config: dict[str, Any],
    refusal: str | None,
) -> None:
    model = write_checkpoint("model", config)
    sides = read_identity(model, prefill), read_identity(model, decode)
    if refusal is None:
        require_same(*sides, names=("math", "base"), where="tasks.sums")
        return
    with pytest.raises(IdentityError) as caught:
        require_same(*sides, names=("math", "base"), where="tasks.sums")
    assert refusal in str(caught.value)

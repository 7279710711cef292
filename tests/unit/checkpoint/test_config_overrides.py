from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.checkpoint.config_overrides import overrides_of, with_overrides
from sun_sglang.errors import CheckpointError

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 500000.0}


@pytest.mark.parametrize("given", ["{", "", "not JSON", '{"a": 1,}', "[" * 100_000], ids=range(5))
def test_overrides_that_are_not_json_are_refused(given: str) -> None:
    with pytest.raises(CheckpointError, match=r"^json_model_override_args: is not JSON"):
        overrides_of({"json_model_override_args": given})


@pytest.mark.parametrize("given", ["[]", "3", "null", '"text"', 3])
def test_overrides_that_are_no_object_are_refused(given: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^json_model_override_args: is not a JSON object"):
        overrides_of({"json_model_override_args": given})


@pytest.mark.parametrize("flags", [{}, {"json_model_override_args": None}, {"json_model_override_args": "{}"}])
def test_no_overrides_change_nothing(flags: dict[str, Any]) -> None:
    assert with_overrides({"num_hidden_layers": 2}, overrides_of(flags)) == {"num_hidden_layers": 2}


@pytest.mark.parametrize("given", ['{"num_hidden_layers": 1}', {"num_hidden_layers": 1}])
def test_overrides_are_text_or_an_object(given: Any) -> None:
    config = with_overrides({"num_hidden_layers": 2}, overrides_of({"json_model_override_args": given}))
    assert config == {"num_hidden_layers": 1}


@pytest.mark.parametrize(
    ("config", "overrides", "expected"),
    [
        (
            {"text_config": {"num_hidden_layers": 4, "hidden_size": 8}},
            {"text_config": {"num_hidden_layers": 2}},
            {"text_config": {"num_hidden_layers": 2, "hidden_size": 8}},
        ),
        (
            {"text_config": {"rope_parameters": LLAMA3}},
            {"text_config": {"rope_scaling": {"rope_type": "yarn"}}},
            {"text_config": {"rope_scaling": {"rope_type": "yarn"}}},
        ),
        ({}, {"text_config": {"num_hidden_layers": 2}}, {"text_config": {"num_hidden_layers": 2}}),
        ({"rope_scaling": LLAMA3}, {"rope_scaling": {"factor": 2.0}}, {"rope_scaling": {**LLAMA3, "factor": 2.0}}),
        (
            {"rope_parameters": LLAMA3},
            {"rope_scaling": {"rope_type": "yarn"}},
            {"rope_scaling": {**LLAMA3, "rope_type": "yarn"}},
        ),
        ({"rope_scaling": LLAMA3}, {"rope_scaling": None}, {"rope_scaling": None}),
        (
            {"quantization_config": {"quant_method": "fp8", "bits": 8}},
            {"quantization_config": {"quant_method": "awq"}},
            {"quantization_config": {"quant_method": "awq"}},
        ),
        ({"other": {"a": 1}}, {"other": {"b": 2}}, {"other": {"b": 2}}),
    ],
    ids=["text", "rope of a text", "new text", "part of rope", "other name of rope", "null", "quantization", "other"],
)
def test_overrides_are_merged_as_sglang_merges_them(
    config: dict[str, Any], overrides: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Each result was compared with SGLang 0.5.23's `get_config`."""
    assert with_overrides(config, overrides) == expected

from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.serving.systems.facts import Facts, require_comparable


def facts(**changes: Any) -> Facts:
    given: dict[str, Any] = {"tasks": ("math", "code"), "tokenizers": {"t1": "models/base"}, "dtypes": {"float32"}}
    return Facts(**{**given, **changes})


@pytest.mark.parametrize(
    "other",
    [
        facts(),
        facts(tasks=("code", "math")),
        facts(tokenizers={"t1": "models/other"}),
        # nothing is known of models that are not on this machine
        facts(tokenizers={}, dtypes=frozenset()),
    ],
)
def test_systems_that_agree_can_be_compared(other: Facts) -> None:
    require_comparable({"sun": facts(), "isolated": other})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (facts(tasks=("math",)), "different tasks: `code`, `math` and `math`"),
        (facts(dtypes={"bfloat16"}), "different dtypes: `float32` and `bfloat16`"),
        (facts(tokenizers={"t2": "models/x"}), r"different tokenizers: `t1` \(models/base\) and `t2` \(models/x\)"),
    ],
)
def test_systems_that_differ_are_refused_with_both_values(other: Facts, message: str) -> None:
    with pytest.raises(BenchError, match=f"sun and plain cannot be compared: {message}"):
        require_comparable({"sun": facts(), "plain": other})

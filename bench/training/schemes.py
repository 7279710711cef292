"""The schemes that the benchmarks of training compare, each with the first token of its paper."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sun_sglang.contracts.scheme import SCHEMES, Scheme

COMPARED: Mapping[str, Scheme] = MappingProxyType(
    {
        "full": SCHEMES["full"],
        "prefill_only": SCHEMES["prefill_only"],
        "decode_only": SCHEMES["decode_only"].with_first_token("decode"),
    }
)

"""LoRA without a GPU: no tensor is pinned in the hooked methods, and what else torch does stays the same."""

from __future__ import annotations

import pytest
import torch

from sun_sglang.patches.lora import lora_host_memory
from sun_sglang.patches.lora.lora_host_memory import ignore_pinning


def test_pinned_memory_that_a_hooked_method_requests_is_plain_memory() -> None:
    plain = torch.arange(3)

    def method(values: list[int], *, scale: float) -> list[torch.Tensor]:
        return [
            torch.tensor(values, dtype=torch.int32, device="cpu", pin_memory=True),
            torch.zeros((2,), pin_memory=True),
            torch.full((2,), scale, pin_memory=False),
            plain.pin_memory(),
            torch.nn.Parameter(torch.ones(1)).pin_memory(),
        ]

    made = ignore_pinning(method, [1, 2], scale=0.5)
    assert [t.tolist() for t in made] == [[1, 2], [0, 0], [0.5, 0.5], [0, 1, 2], [1]]
    assert made[0].dtype == torch.int32
    assert made[3] is plain
    assert not any(t.is_pinned() for t in made)


def test_pinned_memory_is_requested_again_after_a_hooked_method_that_fails() -> None:
    def method() -> None:
        raise RuntimeError("no adapter")

    with pytest.raises(RuntimeError, match="no adapter"):
        ignore_pinning(method)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="accelerator"):
            torch.zeros(1).pin_memory()


def test_hooks_on_lora_are_inactive_where_a_gpu_can_pin_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_host_memory, "has_gpu", lambda: True)
    assert lora_host_memory.BATCH.report().state == "inactive"

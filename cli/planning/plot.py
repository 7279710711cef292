"""The figure of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sun_sglang.plan.outcome import PlanError


def draw_plan(plan: Mapping[str, Any], file: Path) -> None:
    """Draw the GPUs of each system, prefill and decode apart.

    Raises:
        PlanError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise PlanError("--plot needs matplotlib: pip install 'sun-sglang[bench]'") from e
    names = [system["system"] for system in plan["systems"]]
    prefill = [system["prefill_workers"] for system in plan["systems"]]
    decode = [system["decode_workers"] for system in plan["systems"]]
    figure = Figure(figsize=(1.6 + 1.4 * len(names), 3.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(names, prefill, 0.6, label="prefill", color="#9aa5b1")
    bars = axes.bar(names, decode, 0.6, bottom=prefill, label="decode", color="#2f6f9f")
    axes.bar_label(bars, [f"{p} + {d}" for p, d in zip(prefill, decode, strict=True)], padding=2)
    axes.set_ylabel("workers")
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as e:
        raise PlanError(f"--plot: {file} cannot be written: {e}") from e

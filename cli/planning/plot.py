"""The figure of a plan."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sun_sglang.plan.outcome import PlanError
from sun_sglang.strict import listed


def require_drawable(file: Path) -> None:
    """Raise unless a figure can be written to a file, before a simulation that may take long.

    Raises:
        PlanError: matplotlib is not installed or knows no such format, or the directory cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise PlanError("--plot needs matplotlib: pip install 'sun-sglang[bench]'") from e
    known = sorted(Figure().canvas.get_supported_filetypes())
    if file.suffix.removeprefix(".").lower() not in known:
        raise PlanError(f"--plot: {file} has no ending of a figure; known: {listed(known)}")
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise PlanError(
            f"--plot: {file} cannot be written: {file.parent} is no directory that can be; name another file"
        )


def draw_plan(plan: Mapping[str, Any], file: Path) -> None:
    """Draw the GPUs of each system, prefill and decode apart.

    Raises:
        PlanError: the file cannot be written.
    """
    from matplotlib.figure import Figure

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
    except OSError as e:
        raise PlanError(f"--plot: {file} cannot be written: {e.strerror or e}") from e

"""The table of a training step's cost: CPU seconds and memory of each scheme, beside full fine-tuning's."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.bench.report import Report, read_report


class StepCostTable:
    """`training_step_cost.md`."""

    name = "training_step_cost"
    needs: tuple[str, ...] = ("training_step_cost",)

    def draw(self, results: Path, folder: Path) -> Path:
        """Write the table as Markdown and return its file."""
        file = folder / f"{self.name}.md"
        file.write_text(_render(read_report(results / f"{self.name}.json")), encoding="utf-8")
        return file


def _render(report: Report) -> str:
    where = f"{report.machine}, {report.settings['threads']} thread, torch {report.versions['torch']}"
    lines = [
        "# Cost of a training step",
        "",
        f"CPU seconds of forward, backward and AdamW (median of {report.settings['rounds']} interleaved rounds, "
        f"float32, {where}), and MiB: weights with gradients and optimizer state, plus what autograd "
        "keeps for the backward pass. In brackets against full fine-tuning. `qsun` is `prefill_only` with packed 4-bit "
        "weights in the decode module.",
        "",
        "| model, prompt + answer tokens | batch | scheme | seconds | state MiB | kept MiB | memory MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in report.select("state_mib"):
        case, full = run.case, {**run.case, "scheme": "full"}
        seconds, whole_seconds = report.median("cpu_s", case), report.median("cpu_s", full)
        state, kept = run.values["state_mib"], run.values["kept_mib"]
        whole_kept = report.median("kept_mib", full)
        whole = report.median("state_mib", full) + whole_kept
        cells = (
            f"{case['size']}, {case['prompt']} + {case['answer']}",
            str(case["batch"]),
            str(case["scheme"]),
            f"{seconds:.3f} ({seconds / whole_seconds:.2f}x)",
            f"{state:.0f}",
            f"{kept:.0f} ({kept / whole_kept:.2f}x)",
            f"{state + kept:.0f} ({(state + kept) / whole:.2f}x)",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Made by `{report.command}`.", ""])

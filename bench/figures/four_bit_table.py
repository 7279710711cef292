"""The table of 4-bit weights on a CPU, in the form of SUN's Table 4."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.bench.report import Case, Report, read_report

_FULL = ("bfloat16", "float32")
_NAMES = {"four-bit": "both in 4 bits", "qsun": "QSUN"}


class FourBitTable:
    """`four_bit.md`."""

    name = "four_bit"
    needs: tuple[str, ...] = ("four_bit",)

    def draw(self, results: Path, folder: Path) -> Path:
        """Write the table as Markdown and return its file."""
        file = folder / f"{self.name}.md"
        file.write_text(render(read_report(results / f"{self.name}.json")), encoding="utf-8")
        return file


def render(report: Report) -> str:
    """Return the table of a report of `bench/four_bit`, as Markdown."""
    cases = list({tuple(sorted(run.case.items())): run.case for run in report.runs}.values())
    users = sorted({int(case["concurrency"]) for case in cases})
    full = faster_full(report, users[0])
    settings = report.settings
    lines = [
        "# 4-bit weights on a CPU",
        "",
        f"TTFT and TPOT in ms, throughput (TPUT) in output tokens/s: medians of {_rounds(report)} interleaved rounds "
        f"on {report.machine}. Prompts of {settings['prompt']} tokens, answers of {settings['answer']}, a closed loop. "
        f"In brackets against full precision: `{full}`, the faster of bfloat16 and float32 here."
        + (" The 4-bit layers have dense copies for many rows." if settings.get("dense_copy") else ""),
        "",
        "| system | bits, prefill / decode | " + " | ".join(f"TTFT, {n} | TPOT, {n} | TPUT, {n}" for n in users) + " |",
        "|---|---|" + "---|---|---|" * len(users),
    ]
    for system in dict.fromkeys(str(case["system"]) for case in cases):
        own = [case for case in cases if case["system"] == system]
        cells = [cell for n in users for cell in _cells(report, _at(own, n), _at(cases, n, full))]
        lines.append(f"| {_NAMES.get(system, system)} | {own[0]['bits']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Made by `{report.command}`.", ""])


def faster_full(report: Report, concurrency: int) -> str:
    """Return the full-precision system with the lower TPOT at a concurrency."""

    def tpot(system: str) -> float:
        return next(
            float(report.median("tpot_ms", run.case))
            for run in report.runs
            if run.case["system"] == system and run.case["concurrency"] == concurrency
        )

    return min(_FULL, key=tpot)


def _at(cases: list[Case], concurrency: int, system: str | None = None) -> Case:
    return next(c for c in cases if c["concurrency"] == concurrency and system in (None, c["system"]))


def _cells(report: Report, case: Case, full: Case) -> list[str]:
    found = []
    for quantity in ("ttft_ms", "tpot_ms", "throughput"):
        value, reference = report.median(quantity, case), report.median(quantity, full)
        change = "" if case["system"] == full["system"] else f" ({100 * (value / reference - 1):+.0f} %)"
        found.append(f"{value:.4g}{change}")
    return found


def _rounds(report: Report) -> str:
    counts = sorted({median.repetitions for median in report.medians})
    return " to ".join(str(count) for count in counts)

"""The outcome of a check, and its tables. Pure."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sun_sglang.bench.engine_check.checks import Case, Hook, Suite
from sun_sglang.bench.engine_check.cpu_list import Pins
from sun_sglang.bench.engine_check.derivation import Derivation


class Bound(NamedTuple):
    """A requirement of this package that excludes a derived pin; `group` is its extra, or `dependencies`."""

    group: str
    requirement: str
    pinned: str


class Section(NamedTuple):
    """One table; `empty` is the text in place of a table without rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str


@dataclass(frozen=True)
class Report:
    """The outcome of a check.

    Attributes:
        derivation: the pins and the changes.
        bounds: requirements of this package that have to change.
        hooks: every hook on SGLang.
        tests: the tests on real workers.
        environment_seconds: time to make the environment.
        environment_bytes: size of the environment on the disk.
        tests_seconds: time of the tests, with their servers.
    """

    derivation: Derivation
    bounds: tuple[Bound, ...]
    hooks: tuple[Hook, ...]
    tests: Suite
    environment_seconds: float
    environment_bytes: int
    tests_seconds: float

    @property
    def failed(self) -> tuple[Case, ...]:
        """The tests that failed."""
        return tuple(test for test in self.tests.results if test.outcome == "failed")

    @property
    def ok(self) -> bool:
        """Whether every hook is applied or not needed, and every test passed."""
        return all(hook.ok for hook in self.hooks) and not self.failed and self.tests.status == 0

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        derivation = self.derivation
        return {
            "version": derivation.version,
            "before": derivation.before,
            "ok": self.ok,
            "pins": {name: str(pin.version) for name, pin in sorted(derivation.pins.items())},
            "changes": [change._asdict() for change in derivation.changes],
            "deviations": [deviation._asdict() for deviation in derivation.deviations],
            "requirements": [change._asdict() for change in derivation.requirements],
            "bounds": [bound._asdict() for bound in self.bounds],
            "hooks": [dataclasses.asdict(hook) for hook in self.hooks],
            "tests": {
                "status": self.tests.status,
                "seconds": self.tests_seconds,
                "results": [dataclasses.asdict(test) for test in self.tests.results],
            },
            "environment": {"seconds": self.environment_seconds, "bytes": self.environment_bytes},
        }


def bounds_to_move(pyproject: str, pins: Pins) -> Iterator[Bound]:
    """Yield the requirements in `pyproject.toml` that exclude a pin."""
    project = tomllib.loads(pyproject)["project"]
    groups = {"dependencies": project.get("dependencies", []), **project.get("optional-dependencies", {})}
    for group, texts in groups.items():
        for requirement in map(Requirement, texts):
            pin = pins.get(canonicalize_name(requirement.name))
            if pin and not requirement.specifier.contains(pin.version, prereleases=True):
                yield Bound(group, str(requirement), str(pin.version))


def sections(report: Report) -> Iterator[Section]:
    """Yield the tables of a report."""
    derivation = report.derivation
    ours, theirs = f"our list ({derivation.before})", derivation.version
    yield Section(
        "Pins",
        ("package", ours, theirs, "why"),
        tuple((c.package, c.ours or "-", c.theirs or "-", c.why) for c in derivation.changes),
        f"The {len(derivation.pins)} pins are our list's.",
    )
    yield Section(
        "Deviations on purpose",
        ("package", "pinned", "SGLang requires", "why"),
        tuple(derivation.deviations),
        "No pin deviates from SGLang's.",
    )
    yield Section(
        "SGLang's requirements",
        ("package", derivation.before, theirs, "here"),
        tuple((r.package, r.before or "-", r.after or "-", r.here) for r in derivation.requirements),
        "The two versions require the same.",
    )
    yield Section(
        "Bounds to move in pyproject.toml",
        ("group", "requires", "pinned"),
        tuple(report.bounds),
        "None.",
    )
    yield Section(
        "Hooks",
        ("hook", "declared", "found", "why"),
        tuple((h.name, h.declared or f"not tested on {theirs} yet", h.found, h.why) for h in report.hooks),
        "There are no hooks.",
    )
    yield Section("Tests", ("file", "passed", "failed", "skipped", "seconds"), tuple(_by_file(report)), "No test ran.")
    yield Section(
        "Failures",
        ("test", "message"),
        tuple((f"{test.file}::{test.name}", test.message) for test in report.failed),
        "None." if report.tests.status == 0 else f"No test failed, but pytest ended with status {report.tests.status}.",
    )


def summary(report: Report) -> str:
    """Return the outcome in one line."""
    broken = [hook.name for hook in report.hooks if not hook.ok]
    hooks = (
        f"hooks that failed: {', '.join(broken)}"
        if broken
        else f"all {len(report.hooks)} hooks are in place or not needed"
    )
    passed, failed, skipped = _counts(report.tests.results)
    return (
        f"SGLang {report.derivation.version}: {'passed' if report.ok else 'FAILED'}; {hooks}; tests: {passed} passed, "
        f"{failed} failed, {skipped} skipped in {report.tests_seconds:.0f} s; environment: "
        f"{report.environment_bytes / 1e9:.1f} GB, made in {report.environment_seconds:.0f} s"
    )


def to_markdown(report: Report) -> str:
    """Return the report as a Markdown page."""
    lines = [f"# SGLang {report.derivation.version}", "", summary(report) + "."]
    for section in sections(report):
        lines += ["", f"## {section.title}", ""]
        if not section.rows:
            lines.append(section.empty)
            continue
        lines += [_row(section.columns), f"|{'---|' * len(section.columns)}", *map(_row, section.rows)]
    return "\n".join(lines) + "\n"


def _by_file(report: Report) -> Iterator[tuple[str, ...]]:
    for file in dict.fromkeys(test.file for test in report.tests.results):
        tests = [test for test in report.tests.results if test.file == file]
        yield (file, *map(str, _counts(tests)), f"{sum(test.seconds for test in tests):.0f}")


def _counts(tests: Sequence[Case]) -> tuple[int, int, int]:
    outcomes = [test.outcome for test in tests]
    return outcomes.count("passed"), outcomes.count("failed"), outcomes.count("skipped")


def _row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"

"""The derived pins for one SGLang version, and what changed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from packaging.utils import NormalizedName, canonicalize_name

from sun_sglang.bench.engine_check.cpu_list import Deviations, Pins
from sun_sglang.bench.engine_check.releases import Release, allowed_versions, allows


class Change(NamedTuple):
    """A pin that differs between our list and the derived one.

    Attributes:
        package: the package.
        ours: its version in our list; None if our list has no such pin.
        theirs: its version in the derived list; None if that list has no such pin.
        why: the reason.
    """

    package: str
    ours: str | None
    theirs: str | None
    why: str


class Deviation(NamedTuple):
    """A pin that deviates from SGLang's requirement on purpose.

    Attributes:
        package: the package.
        pinned: its version in the derived list.
        required: the versions that SGLang requires.
        why: the reason.
    """

    package: str
    pinned: str
    required: str
    why: str


class RequirementChange(NamedTuple):
    """A requirement that differs between two SGLang versions.

    Attributes:
        package: the package.
        before: the versions that the older one requires; None if it does not require the package.
        after: the versions that the newer one requires; None if it does not require the package.
        here: the version in the derived list, or the reason for its absence.
    """

    package: str
    before: str | None
    after: str | None
    here: str


@dataclass(frozen=True)
class Derivation:
    """The pins for one SGLang version, and their differences from our list.

    Attributes:
        version: the SGLang version.
        before: the SGLang version of our list.
        pins: the derived pins.
        changes: the pins that differ from our list.
        deviations: the pins that deviate from SGLang's requirements on purpose.
        requirements: the requirements that differ between the two SGLang versions.
    """

    version: str
    before: str
    pins: Pins
    changes: tuple[Change, ...]
    deviations: tuple[Deviation, ...]
    requirements: tuple[RequirementChange, ...]


def pin_changes(base: Pins, pins: Pins, reasons: Mapping[NormalizedName, str], version: str) -> Iterator[Change]:
    """Yield the pins that differ.

    Args:
        base: our list.
        pins: the derived pins.
        reasons: the reason of each version that is firm or that the resolver chose.
        version: the SGLang version.
    """
    for name in sorted({*base, *pins}):
        ours, theirs = base.get(name), pins.get(name)
        if ours and theirs and ours.version == theirs.version:
            continue
        why = reasons.get(name) or f"nothing requires it with sglang {version}"
        if theirs is None:
            why = f"nothing requires it with sglang {version}"
        yield Change(name, str(ours.version) if ours else None, str(theirs.version) if theirs else None, why)


def deliberate_deviations(
    wheel: Release, pins: Pins, deviations: Deviations, environment: Mapping[str, str]
) -> Iterator[Deviation]:
    """Yield the pins that deviate from SGLang's requirements on purpose.

    Args:
        wheel: the release of SGLang.
        pins: the derived pins.
        deviations: the deliberate deviations.
        environment: the PEP 508 environment.
    """
    for requirement in wheel.applicable((), environment):
        name = canonicalize_name(requirement.name)
        reason = deviations.kept.get(name) or deviations.cpu_build.get(name)
        if reason and name in pins and not allows(requirement, pins[name].version):
            yield Deviation(name, str(pins[name].version), str(requirement.specifier), reason)


def requirement_changes(
    before: Release, wheel: Release, pins: Pins, deviations: Deviations, environment: Mapping[str, str]
) -> Iterator[RequirementChange]:
    """Yield the requirements that differ between two SGLang versions.

    Args:
        before: the release of SGLang in our list.
        wheel: the release of SGLang to check.
        pins: the derived pins.
        deviations: the deliberate deviations.
        environment: the PEP 508 environment.
    """
    old, new = ({canonicalize_name(r.name): r for r in w.applicable((), environment)} for w in (before, wheel))
    for name in sorted({*old, *new}):
        then, now = (allowed_versions(side[name]) if name in side else None for side in (old, new))
        if then == now:
            continue
        if name in deviations.left_out:
            here = f"left out: {deviations.left_out[name]}"
        else:
            here = f"{pins[name].version}" if name in pins else "not installed"
        yield RequirementChange(name, then, now, here)

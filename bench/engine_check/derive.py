"""Derive the pins of the CPU list for another SGLang version.

The new version's exact pins are firm, and so are the pins that the list keeps on purpose. Then every requirement of
every pinned package is compared with the pins. A pin that breaks a requirement gives way: the registry's resolver
chooses its version again under all other pins. A missing package is added, and a pin that nothing requires any more is
dropped. Two firm pins that exclude each other are an error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from sun_sglang.bench.engine_check.cpu_list import (
    DEVIATIONS,
    LIST,
    Deviations,
    Pin,
    Pins,
    exact_version,
    require_consistent,
)
from sun_sglang.bench.engine_check.derivation import (
    Derivation,
    deliberate_deviations,
    pin_changes,
    requirement_changes,
)
from sun_sglang.bench.engine_check.errors import ConflictError, EngineCheckError, NotOfferedError
from sun_sglang.bench.engine_check.releases import (
    Registry,
    Release,
    allows,
    reachable,
    required_names,
    requirement_text,
    requirements_among,
)

ENGINE = canonicalize_name("sglang")


@dataclass(frozen=True)
class Fault:
    """A requirement that the pins break."""

    requirer: Release
    requirement: Requirement

    @property
    def key(self) -> NormalizedName:
        """The required package."""
        return canonicalize_name(self.requirement.name)

    def __str__(self) -> str:
        return f"{self.requirer.name} {self.requirer.version} requires {requirement_text(self.requirement)}"


@dataclass
class _Draft:
    """The pins while they are derived.

    Attributes:
        pins: the current pins.
        firm: packages whose version must not change, with the reason.
        opened: packages whose version the resolver chooses, with the reason.
    """

    pins: dict[NormalizedName, Pin]
    firm: dict[NormalizedName, str] = field(default_factory=dict)
    opened: dict[NormalizedName, str] = field(default_factory=dict)

    @property
    def reasons(self) -> dict[NormalizedName, str]:
        """The reason of each version that is firm or that the resolver chooses."""
        return {**self.firm, **self.opened}


def derive(
    base: Pins, version: str, deviations: Deviations, registry: Registry, environment: Mapping[str, str]
) -> Derivation:
    """Derive the pins for an SGLang version.

    Args:
        base: the CPU list.
        version: the SGLang version.
        deviations: where the list deviates from SGLang's requirements.
        registry: returns releases.
        environment: the PEP 508 environment of the interpreter that the pins are for.

    Raises:
        EngineCheckError: the registry lacks a version, or a pin cannot be met; names the package that requires it.
    """
    require_consistent(base, deviations)
    if ENGINE not in base:
        raise EngineCheckError("the CPU list has no pin of sglang to start from")
    engine = Pin(base[ENGINE].name, Version(version))
    (wheel,) = registry.releases([engine])
    graph = {r.key: r for r in registry.releases(base.values())}
    before = graph[ENGINE]
    roots = {ENGINE} | (set(base) - required_names(graph.values(), environment))
    draft = _first_draft(base, wheel, deviations, registry, environment)
    while True:
        graph = _releases(draft, registry, wheel)
        faults = list(_faults(graph, draft.pins, deviations, environment))
        if not faults:
            break
        settled = frozenset(draft.opened)
        for fault in faults:
            draft.opened.setdefault(_gives_way(fault, draft, settled), str(fault))
        _resolve(draft, graph, deviations, registry, environment)
    kept = reachable(roots, graph, environment)
    pins = {name: pin for name, pin in draft.pins.items() if name in kept}
    for name in deviations.cpu_build:
        if name not in pins:
            raise EngineCheckError(
                f"sglang {version} does not require {name}, without which no worker starts: check another"
            )
    return Derivation(
        version=version,
        before=str(before.version),
        pins=pins,
        changes=tuple(pin_changes(base, pins, draft.reasons, version)),
        deviations=tuple(deliberate_deviations(wheel, pins, deviations, environment)),
        requirements=tuple(requirement_changes(before, wheel, pins, deviations, environment)),
    )


def _first_draft(
    base: Pins, wheel: Release, deviations: Deviations, registry: Registry, environment: Mapping[str, str]
) -> _Draft:
    """Take SGLang's exact pins, except where the list keeps its own or there is no CPU build."""
    draft = _Draft(dict(base))
    draft.pins[ENGINE] = Pin(base[ENGINE].name, wheel.version)
    draft.firm[ENGINE] = "the version to check"
    for name in (*deviations.kept, *deviations.cpu_build):
        draft.firm[name] = f"{DEVIATIONS} keeps it"
    for requirement in wheel.applicable((), environment):
        name, version = canonicalize_name(requirement.name), exact_version(requirement)
        if version is None or name in deviations.left_out or name in deviations.kept:
            continue
        if name in deviations.cpu_build and not _has_cpu_build(requirement, version, base.get(name), registry):
            continue
        spelling = base[name].name if name in base else requirement.name
        draft.pins[name] = Pin(spelling, version)
        draft.firm[name] = f"sglang {wheel.version} requires {requirement_text(requirement)}"
    return draft


def _has_cpu_build(requirement: Requirement, version: Version, ours: Pin | None, registry: Registry) -> bool:
    same = ours is not None and ours.version == version
    return same or registry.offers(Requirement(f"{requirement.name}=={version.public}+cpu"))


def _releases(draft: _Draft, registry: Registry, wheel: Release) -> dict[NormalizedName, Release]:
    try:
        found = registry.releases(draft.pins.values())
    except NotOfferedError as e:
        name = canonicalize_name(Requirement(e.requirement).name)
        why = draft.firm.get(name) or draft.opened.get(name)
        if why is None:
            raise
        raise EngineCheckError(f"sglang {wheel.version} cannot be installed: {why}, and {e}") from e
    return {r.key: r for r in found}


def _faults(
    graph: Mapping[NormalizedName, Release], pins: Pins, deviations: Deviations, environment: Mapping[str, str]
) -> Iterator[Fault]:
    """Yield the requirements that the pins break, except where the list deviates from SGLang on purpose."""
    deliberate = {*deviations.kept, *deviations.cpu_build}
    for release, requirement in requirements_among(graph.values(), environment):
        name = canonicalize_name(requirement.name)
        if name in deviations.left_out or (release.key == ENGINE and name in deliberate and name in pins):
            continue
        if name not in pins or not allows(requirement, graph[name].version):
            yield Fault(release, requirement)


def _gives_way(fault: Fault, draft: _Draft, settled: Collection[NormalizedName]) -> NormalizedName:
    """Return the package whose version must change: the required one, or the requirer where the required one is firm.

    Args:
        fault: the broken requirement.
        draft: the pins.
        settled: packages whose version the resolver chose already.

    Raises:
        EngineCheckError: neither may change.
    """
    for name in (fault.key, fault.requirer.key):
        if name not in draft.firm and name not in settled:
            return name
    pinned = draft.pins.get(fault.key)
    why = draft.firm.get(fault.key) or draft.opened.get(fault.key)
    raise EngineCheckError(
        f"a pin cannot be met: {fault}, and the environment has {pinned} ({why}); keep, leave out or move one of them "
        f"in {DEVIATIONS} or {LIST}"
    )


def _resolve(
    draft: _Draft,
    graph: Mapping[NormalizedName, Release],
    deviations: Deviations,
    registry: Registry,
    environment: Mapping[str, str],
) -> None:
    """Let the resolver choose the opened packages: under all other pins, or under the firm ones if that fails."""
    required = _required_of_opened(draft, graph, environment)
    engine = draft.pins[ENGINE]
    others = [pin for name, pin in draft.pins.items() if name not in draft.opened and pin is not engine]
    try:
        chosen = registry.resolve(required, others)
    except (ConflictError, NotOfferedError):
        firm = [pin for pin in others if pin.key in draft.firm]
        try:
            chosen = registry.resolve(required, firm)
        except (ConflictError, NotOfferedError) as e:
            why = "; ".join(dict.fromkeys(draft.opened.values()))
            raise EngineCheckError(f"a pin cannot be met ({why}): {e}") from e
    selected = ", ".join(sorted(str(requirement) for requirement in required))
    for release in chosen:
        ours = draft.pins.get(release.key)
        if release.key in deviations.left_out or (ours and _same(ours.version, release.version)):
            continue
        draft.opened.setdefault(release.key, f"{'moves' if ours else 'comes'} with {selected}")
        draft.pins[release.key] = Pin(ours.name if ours else release.name, release.version)


def _required_of_opened(
    draft: _Draft, graph: Mapping[NormalizedName, Release], environment: Mapping[str, str]
) -> list[Requirement]:
    """Return the requirements of all other packages on the opened ones."""
    specifiers = {name: SpecifierSet() for name in draft.opened}
    extras: dict[NormalizedName, set[str]] = {name: set() for name in draft.opened}
    for release, requirement in requirements_among(graph.values(), environment):
        name = canonicalize_name(requirement.name)
        if name in draft.opened and release.key not in draft.opened:
            specifiers[name] &= requirement.specifier
            extras[name] |= requirement.extras
    required = []
    for name, specifier in specifiers.items():
        requirement = Requirement(draft.pins[name].name if name in draft.pins else name)
        requirement.specifier, requirement.extras = specifier, extras[name]
        required.append(requirement)
    return required


def _same(ours: Version, found: Version) -> bool:
    """Return whether a found build is of the pinned version (`2.13.0+cpu` is of `2.13.0`)."""
    return ours == found or (ours.local is None and ours.public == found.public)

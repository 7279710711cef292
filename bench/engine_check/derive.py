"""Move the pins of the CPU list to what another SGLang version requires.

The new version's exact pins are firm, and so is what the list keeps on purpose. Then every requirement of every pinned
package is compared with the pins. A pin that breaks one gives way: the registry's resolver chooses its version anew
under all other pins. A missing package is added, and a pin that nothing requires any more goes. Two firm pins that
exclude each other are an error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

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
from sun_sglang.bench.engine_check.errors import ConflictError, EngineCheckError, NotOfferedError

ENGINE = canonicalize_name("sglang")


@dataclass(frozen=True)
class Release(Pin):
    """One version of a package and everything that its metadata requires."""

    requires: tuple[Requirement, ...]

    def needs(self, extras: Collection[str], environment: Mapping[str, str]) -> Iterator[Requirement]:
        """Yield the requirements that apply in an environment (PEP 508 markers), with some extras chosen."""
        for requirement in self.requires:
            marker = requirement.marker
            if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras)):
                yield requirement


class Registry(Protocol):
    """What a package registry offers to this Python on this machine."""

    def releases(self, pins: Iterable[Pin]) -> list[Release]:
        """Return the release of each pin, in order.

        Raises:
            NotOfferedError: the registry lacks one.
        """

    def offers(self, requirement: Requirement) -> bool:
        """Return whether the registry has a release that a requirement allows."""

    def resolve(self, wanted: Sequence[Requirement], constraints: Sequence[Pin]) -> list[Release]:
        """Return releases that satisfy the wanted requirements and everything that those require.

        Raises:
            ConflictError: there are none under these constraints.
            NotOfferedError: the registry lacks what one of them requires.
        """


class Change(NamedTuple):
    """A pin that differs from the list's; None where one of them has no such pin."""

    package: str
    ours: str | None
    theirs: str | None
    why: str


class Deviation(NamedTuple):
    """A pin that deviates from SGLang's requirement on purpose."""

    package: str
    pinned: str
    required: str
    why: str


class RequirementChange(NamedTuple):
    """A requirement that differs between two SGLang versions; None where one of them has none."""

    package: str
    before: str | None
    after: str | None
    here: str


@dataclass(frozen=True)
class Derivation:
    """The pins for one SGLang version and how they came about."""

    version: str
    before: str
    pins: Pins
    changes: tuple[Change, ...]
    deviations: tuple[Deviation, ...]
    requirements: tuple[RequirementChange, ...]


@dataclass(frozen=True)
class Fault:
    """A requirement that the pins do not satisfy."""

    requirer: Release
    requirement: Requirement

    @property
    def key(self) -> NormalizedName:
        """The required package."""
        return canonicalize_name(self.requirement.name)

    def __str__(self) -> str:
        return f"{self.requirer.name} {self.requirer.version} requires {_text(self.requirement)}"


@dataclass
class _Draft:
    """The pins while they are derived.

    Attributes:
        pins: as they are now.
        firm: packages whose version must not move, and why.
        opened: packages whose version the resolver chooses, and why.
    """

    pins: dict[NormalizedName, Pin]
    firm: dict[NormalizedName, str] = field(default_factory=dict)
    opened: dict[NormalizedName, str] = field(default_factory=dict)


def derive(
    base: Pins, version: str, deviations: Deviations, registry: Registry, environment: Mapping[str, str]
) -> Derivation:
    """Derive the pins for an SGLang version.

    Args:
        base: the CPU list.
        version: the SGLang version.
        deviations: where the list deviates from SGLang's requirements.
        registry: where releases are looked up.
        environment: the PEP 508 environment of the interpreter that the pins are for.

    Raises:
        EngineCheckError: the registry lacks a version, or a pin cannot be met; names what requires it.
    """
    require_consistent(base, deviations)
    if ENGINE not in base:
        raise EngineCheckError("the CPU list has no pin of sglang to start from")
    engine = Pin(base[ENGINE].name, Version(version))
    (wheel,) = registry.releases([engine])
    graph = {r.key: r for r in registry.releases(base.values())}
    before = graph[ENGINE]
    roots = {ENGINE} | (set(base) - _required(graph.values(), environment))
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
    kept = _reachable(roots, graph, environment)
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
        changes=tuple(_changes(base, pins, draft, version)),
        deviations=tuple(_deviations(wheel, pins, deviations, environment)),
        requirements=tuple(_requirement_changes(before, wheel, pins, deviations, environment)),
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
    for requirement in wheel.needs((), environment):
        name, version = canonicalize_name(requirement.name), exact_version(requirement)
        if version is None or name in deviations.left_out or name in deviations.kept:
            continue
        if name in deviations.cpu_build and not _has_cpu_build(requirement, version, base.get(name), registry):
            continue
        spelling = base[name].name if name in base else requirement.name
        draft.pins[name] = Pin(spelling, version)
        draft.firm[name] = f"sglang {wheel.version} requires {_text(requirement)}"
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
    """Yield what the pins do not satisfy, except where the list deviates from SGLang on purpose."""
    deliberate = {*deviations.kept, *deviations.cpu_build}
    for release, requirement in _needs(graph.values(), environment):
        name = canonicalize_name(requirement.name)
        if name in deviations.left_out or (release.key == ENGINE and name in deliberate and name in pins):
            continue
        if name not in pins or not _allows(requirement, graph[name].version):
            yield Fault(release, requirement)


def _gives_way(fault: Fault, draft: _Draft, settled: Collection[NormalizedName]) -> NormalizedName:
    """Return the package whose version must move: the required one, or the requirer where the required one is firm.

    Args:
        fault: what the pins do not satisfy.
        draft: the pins.
        settled: packages whose version the resolver chose already.

    Raises:
        EngineCheckError: neither may move.
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
    """Let the resolver choose the opened packages, under all other pins if it can, else under the firm ones."""
    wanted = _wanted(draft, graph, environment)
    engine = draft.pins[ENGINE]
    others = [pin for name, pin in draft.pins.items() if name not in draft.opened and pin is not engine]
    try:
        chosen = registry.resolve(wanted, others)
    except (ConflictError, NotOfferedError):
        firm = [pin for pin in others if pin.key in draft.firm]
        try:
            chosen = registry.resolve(wanted, firm)
        except (ConflictError, NotOfferedError) as e:
            why = "; ".join(dict.fromkeys(draft.opened.values()))
            raise EngineCheckError(f"a pin cannot be met ({why}): {e}") from e
    asked = ", ".join(sorted(str(requirement) for requirement in wanted))
    for release in chosen:
        ours = draft.pins.get(release.key)
        if release.key in deviations.left_out or (ours and _same(ours.version, release.version)):
            continue
        draft.opened.setdefault(release.key, f"{'moves' if ours else 'comes'} with {asked}")
        draft.pins[release.key] = Pin(ours.name if ours else release.name, release.version)


def _wanted(
    draft: _Draft, graph: Mapping[NormalizedName, Release], environment: Mapping[str, str]
) -> list[Requirement]:
    """Return what the packages that stay require of the opened ones."""
    specifiers = {name: SpecifierSet() for name in draft.opened}
    extras: dict[NormalizedName, set[str]] = {name: set() for name in draft.opened}
    for release, requirement in _needs(graph.values(), environment):
        name = canonicalize_name(requirement.name)
        if name in draft.opened and release.key not in draft.opened:
            specifiers[name] &= requirement.specifier
            extras[name] |= requirement.extras
    wanted = []
    for name, specifier in specifiers.items():
        requirement = Requirement(draft.pins[name].name if name in draft.pins else name)
        requirement.specifier, requirement.extras = specifier, extras[name]
        wanted.append(requirement)
    return wanted


def _needs(releases: Iterable[Release], environment: Mapping[str, str]) -> Iterator[tuple[Release, Requirement]]:
    """Yield every requirement that applies among releases, with the extras that they ask of each other."""
    releases = list(releases)
    extras: dict[NormalizedName, frozenset[str]] = {}
    while True:
        found = [(release, r) for release in releases for r in release.needs(extras.get(release.key, ()), environment)]
        asked: dict[NormalizedName, frozenset[str]] = {}
        for _, requirement in found:
            name = canonicalize_name(requirement.name)
            asked[name] = asked.get(name, frozenset()) | requirement.extras
        if asked == extras:
            yield from found
            return
        extras = asked


def _required(releases: Iterable[Release], environment: Mapping[str, str]) -> set[NormalizedName]:
    return {canonicalize_name(requirement.name) for _, requirement in _needs(releases, environment)}


def _reachable(
    roots: Iterable[NormalizedName], graph: Mapping[NormalizedName, Release], environment: Mapping[str, str]
) -> set[NormalizedName]:
    """Return the packages that the roots require, directly or not."""
    edges: dict[NormalizedName, set[NormalizedName]] = {}
    for release, requirement in _needs(graph.values(), environment):
        edges.setdefault(release.key, set()).add(canonicalize_name(requirement.name))
    found: set[NormalizedName] = set()
    left = [name for name in roots if name in graph]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += [n for n in edges.get(name, ()) if n in graph]
    return found


def _changes(base: Pins, pins: Pins, draft: _Draft, version: str) -> Iterator[Change]:
    for name in sorted({*base, *pins}):
        ours, theirs = base.get(name), pins.get(name)
        if ours and theirs and ours.version == theirs.version:
            continue
        why = draft.opened.get(name) or draft.firm.get(name) or f"nothing requires it with sglang {version}"
        if theirs is None:
            why = f"nothing requires it with sglang {version}"
        yield Change(name, str(ours.version) if ours else None, str(theirs.version) if theirs else None, why)


def _deviations(
    wheel: Release, pins: Pins, deviations: Deviations, environment: Mapping[str, str]
) -> Iterator[Deviation]:
    for requirement in wheel.needs((), environment):
        name = canonicalize_name(requirement.name)
        reason = deviations.kept.get(name) or deviations.cpu_build.get(name)
        if reason and name in pins and not _allows(requirement, pins[name].version):
            yield Deviation(name, str(pins[name].version), str(requirement.specifier), reason)


def _requirement_changes(
    before: Release, wheel: Release, pins: Pins, deviations: Deviations, environment: Mapping[str, str]
) -> Iterator[RequirementChange]:
    old, new = ({canonicalize_name(r.name): r for r in w.needs((), environment)} for w in (before, wheel))
    for name in sorted({*old, *new}):
        then, now = (_allowed(side[name]) if name in side else None for side in (old, new))
        if then == now:
            continue
        if name in deviations.left_out:
            here = f"left out: {deviations.left_out[name]}"
        else:
            here = f"{pins[name].version}" if name in pins else "not installed"
        yield RequirementChange(name, then, now, here)


def _allows(requirement: Requirement, version: Version) -> bool:
    return requirement.specifier.contains(version, prereleases=True)


def _same(ours: Version, found: Version) -> bool:
    """Return whether a found build is of the pinned version (`2.13.0+cpu` is of `2.13.0`)."""
    return ours == found or (ours.local is None and ours.public == found.public)


def _text(requirement: Requirement) -> str:
    """Return a requirement without its marker."""
    return f"{requirement.name}{_extras(requirement)}{requirement.specifier}"


def _allowed(requirement: Requirement) -> str:
    """Return the extras and versions of a requirement."""
    return f"{_extras(requirement)}{requirement.specifier}" or "any version"


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""

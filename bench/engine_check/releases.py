"""Releases of packages and their requirements. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from sun_sglang.bench.engine_check.cpu_list import Pin


@dataclass(frozen=True)
class Release(Pin):
    """One version of a package with the requirements in its metadata."""

    requires: tuple[Requirement, ...]

    def applicable(self, extras: Collection[str], environment: Mapping[str, str]) -> Iterator[Requirement]:
        """Yield the requirements that apply in an environment.

        Args:
            extras: the selected extras.
            environment: the PEP 508 environment, on which markers depend.
        """
        for requirement in self.requires:
            marker = requirement.marker
            if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras)):
                yield requirement


class Registry(Protocol):
    """The releases that a package registry offers to this Python on this machine."""

    def releases(self, pins: Iterable[Pin]) -> list[Release]:
        """Return the release of each pin, in order.

        Raises:
            NotOfferedError: the registry lacks a release.
        """

    def offers(self, requirement: Requirement) -> bool:
        """Return whether the registry has a release that a requirement allows."""

    def resolve(self, required: Sequence[Requirement], constraints: Sequence[Pin]) -> list[Release]:
        """Return releases that satisfy the given requirements, and their own ones among each other.

        Args:
            required: the requirements.
            constraints: pins that must hold.

        Raises:
            ConflictError: no releases satisfy all requirements under these constraints.
            NotOfferedError: the registry lacks a required release.
        """


def requirements_among(
    releases: Iterable[Release], environment: Mapping[str, str]
) -> Iterator[tuple[Release, Requirement]]:
    """Yield every requirement that applies among releases, with the extras that they select of each other."""
    releases = list(releases)
    extras: dict[NormalizedName, frozenset[str]] = {}
    while True:
        found = [
            (release, r) for release in releases for r in release.applicable(extras.get(release.key, ()), environment)
        ]
        selected: dict[NormalizedName, frozenset[str]] = {}
        for _, requirement in found:
            name = canonicalize_name(requirement.name)
            selected[name] = selected.get(name, frozenset()) | requirement.extras
        if selected == extras:
            yield from found
            return
        extras = selected


def required_names(releases: Iterable[Release], environment: Mapping[str, str]) -> set[NormalizedName]:
    """Return the packages that any of the releases requires."""
    return {canonicalize_name(requirement.name) for _, requirement in requirements_among(releases, environment)}


def reachable(
    roots: Iterable[NormalizedName], graph: Mapping[NormalizedName, Release], environment: Mapping[str, str]
) -> set[NormalizedName]:
    """Return the packages that the roots require, directly or indirectly.

    Args:
        roots: the packages to start from.
        graph: every release.
        environment: the PEP 508 environment.
    """
    edges: dict[NormalizedName, set[NormalizedName]] = {}
    for release, requirement in requirements_among(graph.values(), environment):
        edges.setdefault(release.key, set()).add(canonicalize_name(requirement.name))
    found: set[NormalizedName] = set()
    left = [name for name in roots if name in graph]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += [n for n in edges.get(name, ()) if n in graph]
    return found


def allows(requirement: Requirement, version: Version) -> bool:
    """Return whether a requirement allows a version, prereleases included."""
    return requirement.specifier.contains(version, prereleases=True)


def requirement_text(requirement: Requirement) -> str:
    """Return a requirement without its marker."""
    return f"{requirement.name}{_extras(requirement)}{requirement.specifier}"


def allowed_versions(requirement: Requirement) -> str:
    """Return the extras and versions of a requirement."""
    return f"{_extras(requirement)}{requirement.specifier}" or "any version"


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""

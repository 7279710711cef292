"""The pinned list of the CPU environment, and the file of its deliberate deviations from SGLang's requirements."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from sun_sglang.bench.engine_check.errors import EngineCheckError

LIST = "requirements/engine-cpu.txt"
DEVIATIONS = "requirements/engine-cpu.toml"


@dataclass(frozen=True)
class Pin:
    """One package at one version; `name` is spelled as in the list."""

    name: str
    version: Version

    @property
    def key(self) -> NormalizedName:
        """The normalized name, as registries compare it."""
        return canonicalize_name(self.name)

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


Pins = Mapping[NormalizedName, Pin]


@dataclass(frozen=True)
class Deviations:
    """The deliberate deviations of the CPU list from SGLang's requirements; each maps a package to the reason.

    Attributes:
        left_out: packages that SGLang requires and that are not installed.
        kept: packages that stay at the list's version.
        cpu_build: packages that move to SGLang's version only if the registry has a CPU build of it.
    """

    left_out: Mapping[NormalizedName, str]
    kept: Mapping[NormalizedName, str]
    cpu_build: Mapping[NormalizedName, str]


def parse_pins(text: str, where: str = LIST) -> dict[NormalizedName, Pin]:
    """Parse a list of `name==version` lines; skip comments and empty lines.

    Raises:
        EngineCheckError: a line is not an exact pin, or a package occurs twice; names the line.
    """
    pins: dict[NormalizedName, Pin] = {}
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        pin = _parse_pin(content, f"{where}:{number}")
        if pin.key in pins:
            raise EngineCheckError(f"{where}:{number}: {pin.name} is pinned twice; remove one")
        pins[pin.key] = pin
    return pins


def exact_version(requirement: Requirement) -> Version | None:
    """Return the only version that a requirement allows (`==5.12.1`); None if it allows several."""
    specifiers = list(requirement.specifier)
    exact = [s.version for s in specifiers if s.operator in ("==", "===") and not s.version.endswith("*")]
    return Version(exact[0]) if len(specifiers) == 1 and exact else None


def format_pins(pins: Pins, like: str = "") -> str:
    """Write a list in the format that `parse_pins` reads, sorted, under the comment that heads `like`."""
    head: list[str] = []
    for line in like.splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    lines = [str(pin) for pin in sorted(pins.values(), key=lambda pin: pin.name.casefold())]
    return "\n".join([*head, *lines]) + "\n"


def parse_deviations(text: str, where: str = DEVIATIONS) -> Deviations:
    """Parse the tables `left-out`, `kept` and `cpu-build` of package = "reason".

    Raises:
        EngineCheckError: the file is not TOML, has another table, lacks a reason, or names a package twice.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise EngineCheckError(f"{where}: {e}") from e
    known = ("left-out", "kept", "cpu-build")
    seen: dict[NormalizedName, str] = {}
    parsed: dict[str, dict[NormalizedName, str]] = {name: {} for name in known}
    for table, packages in tables.items():
        if table not in known or not isinstance(packages, dict):
            raise EngineCheckError(f"{where}: `{table}` is not one of the tables {', '.join(known)}")
        for package, reason in packages.items():
            if not isinstance(reason, str) or not reason.strip():
                raise EngineCheckError(f"{where}: {table}.{package} needs a reason, as text")
            key = canonicalize_name(package)
            if key in seen:
                raise EngineCheckError(f"{where}: {package} is in `{seen[key]}` and in `{table}`; remove one")
            seen[key] = table
            parsed[table][key] = reason
    return Deviations(parsed["left-out"], parsed["kept"], parsed["cpu-build"])


def require_consistent(pins: Pins, deviations: Deviations) -> None:
    """Raise unless the list lacks every package that is left out and has every package that is kept.

    Raises:
        EngineCheckError: names the package and both files.
    """
    for name in deviations.left_out:
        if name in pins:
            raise EngineCheckError(f"{DEVIATIONS}: left-out.{name} is pinned in {LIST}; remove it from one of them")
    for name in (*deviations.kept, *deviations.cpu_build):
        if name not in pins:
            raise EngineCheckError(f"{DEVIATIONS}: {name} keeps its version but is not in {LIST}; add or remove it")


def _parse_pin(content: str, where: str) -> Pin:
    problem = EngineCheckError(f"{where}: `{content}` is not an exact pin; write name==version")
    try:
        requirement = Requirement(content)
    except InvalidRequirement as e:
        raise problem from e
    version = exact_version(requirement)
    if version is None or requirement.marker or requirement.extras:
        raise problem
    return Pin(requirement.name, version)

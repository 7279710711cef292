"""Pins for another SGLang version, derived from a made-up registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from sun_sglang.bench.engine_check.cpu_list import (
    DEVIATIONS,
    LIST,
    Deviations,
    Pin,
    format_pins,
    parse_deviations,
    parse_pins,
    require_consistent,
)
from sun_sglang.bench.engine_check.derivation import Derivation
from sun_sglang.bench.engine_check.derive import derive
from sun_sglang.bench.engine_check.errors import ConflictError, EngineCheckError, NotOfferedError
from sun_sglang.bench.engine_check.releases import Release

ENVIRONMENT = {"python_version": "3.11", "sys_platform": "linux", "platform_machine": "x86_64"}
BASE = "sglang==1.0\ntorch==2.13.0\ntransformers==5.0\ntokenizers==0.22\nhub==1.5\n"
SMALL = {
    "sglang==1.0": ("torch==2.13.0", "transformers==5.0", "kernels==1.0"),
    "torch==2.13.0+cpu": (),
    "transformers==5.0": ("tokenizers<0.23", "hub>=1.0"),
    "tokenizers==0.22": (),
    "hub==1.5": (),
}
NOTHING = Deviations({canonicalize_name("kernels"): "for GPUs"}, {}, {})


class MadeUpRegistry:
    """Releases by `name==version`; the resolver takes the newest that fits and never goes back on a choice."""

    def __init__(self, releases: Mapping[str, Sequence[str]]) -> None:
        self.all = [
            Release(name, Version(version), tuple(map(Requirement, requires)))
            for name, _, version, requires in ((*pin.partition("=="), requires) for pin, requires in releases.items())
        ]

    def releases(self, pins: Iterable[Pin]) -> list[Release]:
        return [self._newest(Requirement(str(pin)), {}) for pin in pins]

    def offers(self, requirement: Requirement) -> bool:
        return any(self._fits(release, requirement) for release in self.all)

    def resolve(self, wanted: Sequence[Requirement], constraints: Sequence[Pin]) -> list[Release]:
        fixed = {pin.key: pin.version for pin in constraints}
        chosen: dict[str, Release] = {}
        left = list(wanted)
        while left:
            requirement = left.pop()
            name = canonicalize_name(requirement.name)
            if name not in chosen:
                bound = Requirement(f"{requirement.name}=={fixed[name]}") if name in fixed else requirement
                if name in fixed and not requirement.specifier.contains(fixed[name]):
                    raise ConflictError(f"{requirement} excludes {bound}")
                chosen[name] = self._newest(bound, fixed)
                left += chosen[name].applicable(requirement.extras, ENVIRONMENT)
        return list(chosen.values())

    def _newest(self, requirement: Requirement, fixed: Mapping[str, Version]) -> Release:
        named = [release for release in self.all if release.key == canonicalize_name(requirement.name)]
        fit = [release for release in named if self._fits(release, requirement)]
        if not fit:
            raise NotOfferedError(str(requirement), tuple(str(release.version) for release in named))
        free = [release for release in fit if self._agrees(release, fixed)]
        if not free:
            raise ConflictError(f"no {requirement} agrees with the constraints")
        return max(free, key=lambda release: release.version)

    def _fits(self, release: Release, requirement: Requirement) -> bool:
        return release.key == canonicalize_name(requirement.name) and requirement.specifier.contains(release.version)

    def _agrees(self, release: Release, fixed: Mapping[str, Version]) -> bool:
        return all(
            requirement.specifier.contains(fixed[name])
            for requirement in release.applicable((), ENVIRONMENT)
            if (name := canonicalize_name(requirement.name)) in fixed
        )


def run(
    more: Mapping[str, Sequence[str]], *, base: str = BASE, version: str = "2.0", deviations: Deviations = NOTHING
) -> Derivation:
    return derive(parse_pins(base), version, deviations, MadeUpRegistry({**SMALL, **more}), ENVIRONMENT)


def pins(derivation: Derivation) -> dict[str, str]:
    return {name: str(pin.version) for name, pin in derivation.pins.items()}


def deviating(table: str, package: str) -> Deviations:
    return parse_deviations(f'[left-out]\nkernels = "for GPUs"\n[{table}]\n{package} = "a reason"\n')


def test_pins_of_the_lists_own_version_stay_as_they_are() -> None:
    derivation = run({}, version="1.0")
    assert format_pins(derivation.pins, BASE) == format_pins(parse_pins(BASE))
    assert (derivation.changes, derivation.requirements, derivation.deviations) == ((), (), ())


def test_exact_pin_of_the_wheel_is_taken_with_its_reason() -> None:
    derivation = run(
        {"sglang==2.0": ("torch==2.13.0", "transformers==5.1"), "transformers==5.1": ("tokenizers<0.23", "hub")}
    )
    assert pins(derivation)["transformers"] == "5.1"
    (change,) = [c for c in derivation.changes if c.package == "transformers"]
    assert change == ("transformers", "5.0", "5.1", "sglang 2.0 requires transformers==5.1")


def test_pins_of_another_version_and_back_are_the_same() -> None:
    more = {
        "sglang==2.0": ("torch==2.13.0", "transformers==5.1", "tokenizers==0.23"),
        "transformers==5.1": ("tokenizers<0.24", "hub"),
        "tokenizers==0.23": (),
        "sglang==1.0": (*SMALL["sglang==1.0"], "tokenizers==0.22"),
    }
    there = run(more)
    back = run(more, base=format_pins(there.pins), version="1.0")
    assert format_pins(back.pins) == format_pins(parse_pins(BASE))


def test_range_that_includes_our_pin_leaves_it() -> None:
    derivation = run(
        {"sglang==2.0": ("torch==2.13.0", "transformers>=5", "hub>=1.2"), "transformers==5.1": (), "hub==1.9": ()}
    )
    assert (pins(derivation)["transformers"], pins(derivation)["hub"]) == ("5.0", "1.5")


def test_pin_that_a_new_pin_excludes_gives_way_to_the_newest_that_fits() -> None:
    more = {
        "sglang==2.0": ("torch==2.13.0", "transformers==5.1"),
        "transformers==5.1": ("tokenizers<0.23", "hub>=1.6,<2"),
        "hub==1.6": (),
        "hub==1.7": ("brand-new",),
        "hub==2.0": (),
        "brand-new==3": (),
    }
    derivation = run(more)
    assert (pins(derivation)["hub"], pins(derivation)["brand-new"]) == ("1.7", "3")
    why = {change.package: change.why for change in derivation.changes}
    assert why["hub"] == "transformers 5.1 requires hub<2,>=1.6"
    assert why["brand-new"] == "comes with hub<2,>=1.6"


def test_pin_that_excludes_a_firm_pin_gives_way_itself() -> None:
    more = {
        "sglang==1.0": (*SMALL["sglang==1.0"], "vision"),
        "sglang==2.0": ("torch==2.14", "transformers==5.0", "vision"),
        "torch==2.14": (),
        "vision==1": ("torch==2.13.0",),
        "vision==2": ("torch==2.14",),
        "vision==3": ("torch==2.15",),
    }
    assert pins(run(more, base=BASE + "vision==1\n"))["vision"] == "2"


def test_pin_in_the_way_of_a_new_one_moves_too() -> None:
    more = {
        "sglang==2.0": ("torch==2.13.0", "transformers==5.1"),
        "transformers==5.1": ("tokenizers>=0.23", "hub>=1.6"),
        "tokenizers==0.23": ("hub",),
        "hub==1.6": ("extra-hub>=2",),
        "extra-hub==1": (),
        "extra-hub==2": (),
        "hub==1.5": ("extra-hub",),
    }
    derivation = run(more, base=BASE + "extra-hub==1\n")
    assert {name: pins(derivation)[name] for name in ("hub", "extra-hub")} == {"hub": "1.6", "extra-hub": "2"}


def test_new_requirement_is_added_and_reported() -> None:
    derivation = run(
        {"sglang==2.0": ("torch==2.13.0", "transformers==5.0", "recipes<3"), "recipes==2": (), "recipes==3": ()}
    )
    assert pins(derivation)["recipes"] == "2"
    assert ("recipes", None, "<3", "2") in derivation.requirements
    assert ("recipes", None, "2", "sglang 2.0 requires recipes<3") in derivation.changes


def test_new_requirement_that_is_left_out_is_reported_with_the_reason() -> None:
    derivation = run({"sglang==2.0": ("torch==2.13.0", "transformers==5.0", "kernels==2.0")})
    assert "kernels" not in pins(derivation)
    assert ("kernels", "==1.0", "==2.0", "left out: for GPUs") in derivation.requirements


def test_requirement_that_is_gone_is_dropped_with_what_only_it_required() -> None:
    more = {
        "sglang==1.0": (*SMALL["sglang==1.0"], "old", "shared"),
        "sglang==2.0": ("torch==2.13.0", "transformers==5.0"),
        "old==1": ("older", "shared"),
        "older==1": (),
        "shared==1": (),
        "transformers==5.0": (*SMALL["transformers==5.0"], "shared"),
        "own==1": (),
    }
    derivation = run(more, base=BASE + "old==1\nolder==1\nshared==1\nown==1\n")
    assert not {"old", "older"} & set(pins(derivation))
    assert {"shared", "own"} <= set(pins(derivation)), "required elsewhere, and ours from the start"
    assert ("old", "1", None, "nothing requires it with sglang 2.0") in derivation.changes
    assert ("old", "any version", None, "not installed") in derivation.requirements


def test_markers_and_extras_decide_what_is_required() -> None:
    more = {
        "sglang==2.0": (
            "torch==2.13.0",
            "transformers[fast]==5.1",
            'arm-only; platform_machine == "aarch64"',
            'old-python; python_version < "3.11"',
            'diffusers; extra == "diffusion"',
        ),
        "transformers==5.1": ("tokenizers", "hub", 'fastlib; extra == "fast"', 'slowlib; extra == "slow"'),
        "fastlib==1": (),
    }
    derivation = run(more)
    assert set(pins(derivation)) == {"sglang", "torch", "transformers", "tokenizers", "hub", "fastlib"}


def test_kept_pin_stays_and_is_reported() -> None:
    derivation = run(
        {"sglang==2.0": ("torch==2.13.0", "transformers==5.0", "hub==1.2"), "hub==1.2": ()},
        deviations=deviating("kept", "hub"),
    )
    assert pins(derivation)["hub"] == "1.5"
    assert derivation.deviations == (("hub", "1.5", "==1.2", "a reason"),)


@pytest.mark.parametrize(("offered", "expected"), [("torch==2.14.1", "2.13.0"), ("torch==2.14.1+cpu", "2.14.1")])
def test_cpu_build_moves_where_the_registry_has_one(offered: str, expected: str) -> None:
    derivation = run(
        {"sglang==2.0": ("torch==2.14.1", "transformers==5.0"), offered: ()}, deviations=deviating("cpu-build", "torch")
    )
    assert pins(derivation)["torch"] == expected
    assert len(derivation.deviations) == (expected == "2.13.0")


def test_unknown_version_is_one_error_with_the_newest_versions() -> None:
    with pytest.raises(NotOfferedError, match=r"offers no sglang==9\.9 .* its newest are 1\.0"):
        run({}, version="9.9")


def test_pin_that_the_registry_lacks_is_one_error_with_what_requires_it() -> None:
    with pytest.raises(
        EngineCheckError, match=r"sglang 2\.0 requires transformers==6\.0, and .* offers no transformers==6\.0 .*5\.0"
    ):
        run({"sglang==2.0": ("torch==2.13.0", "transformers==6.0")})


def test_pins_that_exclude_each_other_are_one_error_with_both() -> None:
    more = {"sglang==2.0": ("torch==2.13.0", "transformers==5.1"), "transformers==5.1": ("torch>=2.14",)}
    with pytest.raises(
        EngineCheckError, match=r"transformers 5\.1 requires torch>=2\.14.*torch==2\.13\.0 \(sglang 2\.0 req"
    ):
        run(more)


def test_version_that_requires_no_torch_is_one_error() -> None:
    with pytest.raises(EngineCheckError, match=r"sglang 2\.0 does not require torch"):
        run({"sglang==2.0": ("transformers==5.0",)}, deviations=deviating("cpu-build", "torch"))


def test_requirement_that_no_release_satisfies_is_one_error() -> None:
    more = {"sglang==2.0": ("torch==2.13.0", "transformers==5.1"), "transformers==5.1": ("tokenizers", "hub>=7")}
    with pytest.raises(EngineCheckError, match=r"a pin cannot be met \(transformers 5\.1 requires hub>=7\)"):
        run(more)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("torch>=2", r"list:1: `torch>=2` is not an exact pin"),
        ("torch==2.*", "not an exact pin"),
        ("torch", "not an exact pin"),
        ("???", "not an exact pin"),
        ("a==1\n# note\nA==2", "list:3: A is pinned twice"),
    ],
)
def test_line_that_is_no_pin_is_named(text: str, complaint: str) -> None:
    with pytest.raises(EngineCheckError, match=complaint):
        parse_pins(text, "list")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[kept", "engine-cpu.toml"),
        ('[keep]\na = "b"', "`keep` is not one of the tables"),
        ('[kept]\na = ""', "kept.a needs a reason"),
        ('[kept]\nA = "x"\n[left-out]\na = "y"', "a is in `kept` and in `left-out`"),
    ],
)
def test_wrong_deviation_is_named(text: str, complaint: str) -> None:
    with pytest.raises(EngineCheckError, match=complaint):
        parse_deviations(text)


def test_deviation_that_the_list_contradicts_is_named() -> None:
    with pytest.raises(EngineCheckError, match=r"left-out\.hub is pinned"):
        require_consistent(parse_pins(BASE), Deviations({canonicalize_name("hub"): "x"}, {}, {}))
    with pytest.raises(EngineCheckError, match="gone keeps its version but is not in"):
        require_consistent(parse_pins(BASE), deviating("kept", "gone"))


def test_comment_that_heads_a_list_stays() -> None:
    assert format_pins(parse_pins(BASE), "# why\n# so\n" + BASE).startswith("# why\n# so\nhub==1.5\nsglang==1.0\n")


def test_the_repositorys_lists_agree() -> None:
    root = Path(__file__).parents[4]
    text = (root / LIST).read_text()
    pinned = parse_pins(text)
    require_consistent(pinned, parse_deviations((root / DEVIATIONS).read_text()))
    assert format_pins(pinned, text) == text, "a derived list differs in the pins that changed, and in nothing else"

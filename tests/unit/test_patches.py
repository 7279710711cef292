"""Patches prove themselves: a moved target, another signature and a hook that did not take are each named."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sun_sglang import patches
from sun_sglang.errors import END_MARK, REFUSED, LaunchError, PatchError, SunError
from sun_sglang.patches.few_grammars import MOST_GRAMMARS, compile_without_cache, drop_oldest
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.prompt_only_cache import BACKEND, OTHER_STORES
from sun_sglang.patches.report_patches import PROOF, proven, require_proofs
from sun_sglang.patches.versions import PLUGIN, RUN_ON, installed_version, require_chosen, require_run_on
from sun_sglang.worker import keeps_answers, report_end


def engine(function: Callable[..., Any]) -> ModuleType:
    module = ModuleType("made_up_engine")
    vars(module).update(step=function, Server=type("Server", (), {"start": classmethod(lambda cls, port: port)}))
    return module


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = engine(lambda batch, limit: batch)
    monkeypatch.setitem(sys.modules, "made_up_engine", module)
    return module


def hook(*_args: object) -> None: ...


def patch(**changes: Any) -> Patch:
    fields: dict[str, Any] = {
        "name": "example",
        "target": "made_up_engine.step",
        "parameters": (("batch", "limit"),),
        "kind": "before",
        "hook": hook,
        "why": "",
        "versions": {"1.0": "changes a step"},
        "way_out": "",
    }
    return Patch(**fields | changes)


def wrapped(function: Callable[..., Any], hook: Callable[..., Any]) -> Callable[..., Any]:
    """As SGLang's registry wraps."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        hook(*args)
        return function(*args)

    return wrapper


def test_a_hook_in_place_is_applied(made_up: ModuleType) -> None:
    made_up.step = wrapped(wrapped(made_up.step, hook), print)
    assert patch().report().state == "applied", "also under somebody else's hook"


def test_a_hook_that_did_not_take_is_missing(made_up: ModuleType) -> None:
    made_up.step = wrapped(made_up.step, print)
    report = patch().report()
    assert report.state == "missing"
    assert "made_up_engine.step runs without it" in report.detail


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"parameters": (("batch",), ("x",))}, r"takes \(batch, limit\) where SGLang 1.0 takes \(batch\) or \(x\)"),
        ({"target": "made_up_engine.leap"}, "made_up_engine.leap is gone"),
        ({"target": "no_such_engine.step"}, "no_such_engine.step is gone"),
    ],
)
@pytest.mark.usefixtures("made_up")
def test_a_moved_target_is_named(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PatchError, match="patch `example`: .*" + complaint):
        patch(**changes).require_target()
    assert patch(**changes).report().state == "moved"


def test_a_classmethod_has_one_signature_before_and_after_it_was_hooked(made_up: ModuleType) -> None:
    target = patch(target="made_up_engine.Server.start", parameters=(("cls", "port"),))
    target.require_target()
    made_up.Server.start = classmethod(wrapped(made_up.Server.start.__func__, hook))
    assert target.report().state == "applied"


def test_a_patch_that_is_not_needed_is_inactive_and_no_reason_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    unneeded = patch(target="no_such_engine.step", unneeded=lambda: "this machine has a GPU")
    assert (unneeded.report().state, unneeded.report().detail) == ("inactive", "this machine has a GPU")
    monkeypatch.setattr(patches, "ALL", (unneeded,))
    assert patches.require_applied() == []


@pytest.mark.usefixtures("made_up")
def test_a_process_without_a_hook_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "ALL", (patch(),))
    with pytest.raises(PatchError, match="patch `example` did not take"):
        patches.require_applied()


@pytest.mark.parametrize("version", RUN_ON)
def test_version_that_the_product_was_run_on_passes(version: str) -> None:
    require_run_on(version, {})


def test_other_version_is_refused_with_the_versions_and_the_way_out() -> None:
    with pytest.raises(
        PatchError, match=r"SGLang 9\.9 is installed.*0\.5\.21.*make engine-check VERSION=9\.9.*SUN_ANY_SGLANG=1"
    ):
        require_run_on("9.9", {})
    require_run_on("9.9", {"SUN_ANY_SGLANG": "1"})


@pytest.mark.parametrize("chosen", ["", PLUGIN, f"other, {PLUGIN}"])
def test_plugins_with_ours_or_without_a_choice_pass(chosen: str) -> None:
    require_chosen({"SGLANG_PLUGINS": chosen})


def test_plugins_without_ours_are_refused_by_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_PLUGINS", "other,sunny")
    monkeypatch.setattr(patches, "installed_version", lambda: RUN_ON[0])
    monkeypatch.setattr(patches, "ALL", ())
    with pytest.raises(PatchError, match=r"SGLANG_PLUGINS=other,sunny .*add `sun` to it"):
        patches.require_applied()


def test_plugin_has_the_name_of_its_entry_point() -> None:
    points = importlib.metadata.entry_points(group="sglang.srt.plugins")
    assert [p.name for p in points if p.value == "sun_sglang.patches:register"] == [PLUGIN]


def test_build_of_a_version_counts_as_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.5.23+cu130")
    assert installed_version() == "0.5.23"


@pytest.mark.parametrize(("error", "status"), [(PatchError("a hook"), REFUSED), (LaunchError("a port"), 1)])
def test_worker_that_ends_reports_why_and_whether_another_start_may_help(
    error: SunError, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_end(error) == status
    assert capsys.readouterr().err == f"{END_MARK}{error}\n"


def test_every_patch_says_what_it_is() -> None:
    assert len({p.name for p in patches.ALL}) == len(patches.ALL)
    for p in patches.ALL:
        assert p.target.startswith("sglang.")
        assert p.why
        assert tuple(p.versions) == RUN_ON
        assert all(p.versions.values())
        assert p.way_out


def test_a_scheduler_without_proof_is_refused() -> None:
    proof = {"pid": 1, "patches": [{"name": "x", "target": "y", "state": "applied"}]}
    good: dict[str, Any] = {"status": "ready", PROOF: proof}
    assert require_proofs([good, good]) == [good, good]
    assert [r.name for r in proven(json.loads(json.dumps(good)))] == ["x"]
    with pytest.raises(PatchError, match="scheduler 1 started without"):
        require_proofs([good, {"status": "ready"}])
    missing = {"name": "x", "target": "y", "state": "missing", "detail": "y runs without it"}
    with pytest.raises(PatchError, match="patch `x` did not take: y runs without it"):
        require_proofs([good, {PROOF: {"pid": 2, "patches": [missing]}}])


def test_grammars_that_many_clients_sent_are_dropped_oldest_first() -> None:
    backend = SimpleNamespace(cache={})
    for i in range(3 * MOST_GRAMMARS):
        backend.cache["json", str(i)] = i
        drop_oldest(None, backend, ("json", str(i)), i)
    assert list(backend.cache.values()) == list(range(2 * MOST_GRAMMARS, 3 * MOST_GRAMMARS))


def test_compiler_of_grammars_keeps_none() -> None:
    assert compile_without_cache("self", tokenizer_info=1) == (("self",), {"tokenizer_info": 1, "cache_enabled": False})


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ({}, False),
        ({"disaggregation_decode_enable_radix_cache": True}, True),
        ({"disaggregation_decode_enable_radix_cache": True, "radix_cache_backend": BACKEND}, False),
        *(({name: True}, True) for name in OTHER_STORES),
        *(
            ({"disaggregation_decode_enable_radix_cache": True, "radix_cache_backend": BACKEND, name: True}, True)
            for name in OTHER_STORES
        ),
    ],
)
def test_card_states_whether_any_store_keeps_answers(flags: dict[str, Any], kept: bool) -> None:
    resolved = {
        "disaggregation_decode_enable_radix_cache": False,
        "disable_radix_cache": False,
        "radix_cache_backend": None,
        **dict.fromkeys(OTHER_STORES, False),
    }
    assert keeps_answers(resolved | flags) == kept

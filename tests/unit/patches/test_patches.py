"""Patches prove themselves: a moved target, another signature and a hook that did not take are each named."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Collection
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import zmq

from sun_sglang import patches
from sun_sglang.contracts.decode_cache import ANSWER_STORE_FLAGS, PROMPT_ONLY_BACKEND
from sun_sglang.contracts.worker_card import PatchReport
from sun_sglang.errors import END_MARK, EXIT_REFUSED, LaunchError, PatchError, SunError
from sun_sglang.patches.cache import prompt_only_cache
from sun_sglang.patches.cache.few_grammars import MAX_GRAMMARS, compile_without_cache, drop_oldest
from sun_sglang.patches.cache.prefill_hits import add_decode_hits, count_prefill_hits
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.processes import waiting_scheduler
from sun_sglang.patches.processes.idle_controller import WAIT_MS, wait_for_messages
from sun_sglang.patches.report_patches import (
    PROOF_FILE_VARIABLE,
    Proof,
    ProofFile,
    append_proof,
    launch_with_proofs,
    leave_proof,
    scheduler_proofs,
)
from sun_sglang.patches.transfer.first_ids_row import append_empty_row
from sun_sglang.patches.versions import PLUGIN, installed_version, require_plugin_selected, require_supported
from sun_sglang.sglang_versions import SUPPORTED_VERSIONS
from sun_sglang.worker.card_page import keeps_answers
from sun_sglang.worker.server import report_end


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
        "removable_when": "",
    }
    return Patch(**fields | changes)


def wrapped(function: Callable[..., Any], hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is wrapped as by SGLang's registry."""

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
    inactive = patch(target="no_such_engine.step", inactive_reason=lambda: "this machine has a GPU")
    assert (inactive.report().state, inactive.report().detail) == ("inactive", "this machine has a GPU")
    monkeypatch.setattr(patches, "ALL", (inactive,))
    assert patches.require_applied() == []


@pytest.mark.usefixtures("made_up")
def test_a_process_without_a_hook_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "ALL", (patch(),))
    with pytest.raises(PatchError, match="patch `example` is not applied"):
        patches.require_applied()


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_version_that_the_product_was_run_on_passes(version: str) -> None:
    require_supported(version, {})


def test_other_version_is_refused_with_the_versions_and_the_way_out() -> None:
    with pytest.raises(
        PatchError, match=r"SGLang 9\.9 is installed.*0\.5\.21.*make engine-check VERSION=9\.9.*SUN_ANY_SGLANG=1"
    ):
        require_supported("9.9", {})
    require_supported("9.9", {"SUN_ANY_SGLANG": "1"})


@pytest.mark.parametrize("chosen", ["", PLUGIN, f"other, {PLUGIN}"])
def test_plugins_with_ours_or_without_a_choice_pass(chosen: str) -> None:
    require_plugin_selected({"SGLANG_PLUGINS": chosen})


def test_plugins_without_ours_are_refused_by_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_PLUGINS", "other,sunny")
    monkeypatch.setattr(patches, "installed_version", lambda: SUPPORTED_VERSIONS[0])
    monkeypatch.setattr(patches, "ALL", ())
    with pytest.raises(PatchError, match=r"SGLANG_PLUGINS=other,sunny .*add `sun` to it"):
        patches.require_applied()


def test_plugin_has_the_name_of_its_entry_point() -> None:
    points = importlib.metadata.entry_points(group="sglang.srt.plugins")
    assert [p.name for p in points if p.value == "sun_sglang.patches:register"] == [PLUGIN]


def test_build_of_a_version_counts_as_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.5.23+cu130")
    assert installed_version() == "0.5.23"


@pytest.mark.parametrize(("error", "status"), [(PatchError("a hook"), EXIT_REFUSED), (LaunchError("a port"), 1)])
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
        assert tuple(p.versions) == SUPPORTED_VERSIONS
        assert all(p.versions.values())
        assert p.removable_when


APPLIED = PatchReport(name="x", target="y", state="applied")
MISSING = PatchReport(name="x", target="y", state="missing", detail="y runs without it")


class Launch:
    """SGLang's launch of schedulers, each of which leaves its proof unless it is silent.

    Args:
        pids: of all schedulers.
        silent: those that start without the hooks.
        controlled: a data-parallel controller starts the schedulers, and its own message is all that the server gets.
        report: what each scheduler reports.
    """

    def __init__(
        self, pids: range, *, silent: Collection[int] = (), controlled: bool = False, report: PatchReport = APPLIED
    ) -> None:
        self.pids, self.silent, self.controlled, self.report = pids, silent, controlled, report

    def __call__(self, server_args: str) -> tuple[Any, list[Any]]:
        assert server_args == "arguments"
        result = SimpleNamespace(scheduler_infos=[])
        path = os.environ[PROOF_FILE_VARIABLE]

        def wait_for_ready() -> None:
            for pid in self.pids:
                if pid not in self.silent:
                    append_proof(path, Proof(pid=pid, patches=(self.report,)))
            ready: dict[str, Any] = {"status": "ready"}
            listed = {"scheduler_pids": list(self.pids)} if self.controlled else {}
            result.scheduler_infos.extend([ready | listed] if self.controlled else [ready.copy() for _ in self.pids])

        result.wait_for_ready = wait_for_ready
        return result, [SimpleNamespace(pid=pid) for pid in ([1] if self.controlled else self.pids)]


# tensor x pipeline x data parallel ranks
RANKS = range(100, 100 + 2 * 2 * 2)


@pytest.mark.parametrize("controlled", [False, True])
def test_server_whose_schedulers_all_leave_a_proof_starts(controlled: bool) -> None:
    result, _ = launch_with_proofs(Launch(RANKS, controlled=controlled), "arguments")
    result.wait_for_ready()
    proofs = scheduler_proofs(json.loads(json.dumps(result.scheduler_infos[0])))
    assert [proof.pid for proof in proofs] == list(RANKS)
    assert all(proof.patches == (APPLIED,) for proof in proofs)
    assert PROOF_FILE_VARIABLE not in os.environ


@pytest.mark.parametrize("controlled", [False, True])
def test_server_with_one_scheduler_without_proof_is_refused(controlled: bool) -> None:
    result, _ = launch_with_proofs(Launch(RANKS, silent={104}, controlled=controlled), "arguments")
    with pytest.raises(PatchError, match=r"1 of 8 schedulers started without sun-sglang's hooks \(processes 104\)"):
        result.wait_for_ready()


def test_server_with_a_hook_that_did_not_take_is_refused_by_the_hook() -> None:
    result, _ = launch_with_proofs(Launch(RANKS, controlled=True, report=MISSING), "arguments")
    with pytest.raises(PatchError, match="patch `x` is not applied: y runs without it"):
        result.wait_for_ready()


def test_launch_that_fails_leaves_the_environment_as_it_was() -> None:
    def launch() -> tuple[Any, Any]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        launch_with_proofs(launch)
    assert PROOF_FILE_VARIABLE not in os.environ


def test_scheduler_leaves_the_kv_dtype_that_it_gives_to_the_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = SimpleNamespace(kv_cache_dtype_str="fp8_e4m3", lora_manager=None)
    assert proof_of(runner, monkeypatch) == Proof(pid=os.getpid(), patches=(), kv_cache_dtype="fp8_e4m3")


def test_scheduler_leaves_the_limits_of_adapters_that_it_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = SimpleNamespace(max_lora_rank=16, target_modules={"qkv_proj", "o_proj"})
    proof = proof_of(SimpleNamespace(kv_cache_dtype_str="auto", lora_manager=adapters), monkeypatch)
    assert (proof.lora_rank, proof.lora_targets) == (16, ("o_proj", "qkv_proj"))


def proof_of(runner: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Proof:
    """Return the proof that a scheduler with this model runner leaves."""
    file = ProofFile()
    monkeypatch.setenv(PROOF_FILE_VARIABLE, file.path)
    monkeypatch.setattr("sun_sglang.patches.status", list)
    leave_proof({}, SimpleNamespace(tp_worker=SimpleNamespace(model_runner=runner)))
    (proof,) = file.read()
    file.close()
    return proof


def test_grammars_that_many_clients_sent_are_dropped_oldest_first() -> None:
    backend = SimpleNamespace(cache={})
    for i in range(3 * MAX_GRAMMARS):
        backend.cache["json", str(i)] = i
        drop_oldest(None, backend, ("json", str(i)), i)
    assert list(backend.cache.values()) == list(range(2 * MAX_GRAMMARS, 3 * MAX_GRAMMARS))


def test_compiler_of_grammars_keeps_none() -> None:
    assert compile_without_cache("self", tokenizer_info=1) == (("self",), {"tokenizer_info": 1, "cache_enabled": False})


@pytest.mark.parametrize("prefix", [{"prefix_len": 60}, {"prefix_indices": [0] * 60}])
@pytest.mark.parametrize("of_prefill", [0, 30, 63])
def test_cached_tokens_of_a_transferred_prompt_stay_the_prefill_workers(prefix: Any, of_prefill: int) -> None:
    """SGLang adds the part of the decode worker's prefix that is over `already_computed`."""
    req = SimpleNamespace(
        **prefix,
        origin_input_ids=[1] * 64,
        already_computed=of_prefill,
        cached_tokens=of_prefill,
        retracted_stain=False,
    )
    assert count_prefill_hits(SimpleNamespace(reqs=[req])) is None
    req.cached_tokens += max(0, 60 - req.already_computed)
    assert req.cached_tokens == of_prefill
    details = {"device": of_prefill, "host": 0} if of_prefill else None
    expected = {"device": of_prefill, "host": 0, "decode": 60}
    assert add_decode_hits(details, None, req) == expected


def test_cached_tokens_details_without_hits_of_the_decode_worker_stay_as_they_are() -> None:
    resumed = SimpleNamespace(retracted_stain=True, already_computed=0)
    count_prefill_hits(SimpleNamespace(reqs=[resumed]))
    assert vars(resumed) == {"retracted_stain": True, "already_computed": 0}
    assert add_decode_hits({"device": 3, "host": 0}, None, resumed) is None
    assert add_decode_hits(None, None, SimpleNamespace(sun_decode_hits=0)) is None


@pytest.mark.parametrize(
    ("asked", "rows", "expected"), [([5], [], [[]]), ([5], [[]], [[]]), (None, [], [])], ids=["short", "whole", "none"]
)
def test_logprobs_of_ids_get_one_row_for_the_transferred_token(asked: Any, rows: Any, expected: Any) -> None:
    logprob = SimpleNamespace(
        token_ids_logprob=asked,
        output_token_logprobs_val=[-0.1],
        output_token_ids_logprobs_val=[*rows],
        output_token_ids_logprobs_idx=[*rows],
    )
    req = SimpleNamespace(return_logprob=True, logprob=logprob)
    append_empty_row(None, None, SimpleNamespace(req=req))
    assert logprob.output_token_ids_logprobs_val == logprob.output_token_ids_logprobs_idx == expected
    append_empty_row(None, None, SimpleNamespace(req=SimpleNamespace(return_logprob=False)))


@pytest.mark.parametrize("moved", ["UnifiedRadixCache", "PureSWARadixCache"])
def test_cache_of_which_one_base_inserts_in_another_way_is_refused_by_the_method(
    moved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cache:
        def checkpoint(self, req: Any, *, up_to: int) -> None: ...

        def on_release(self, req: Any, *, checkpointed: bool) -> None: ...

    class Moved(Cache):
        def checkpoint(self, req: Any, *, up_to: int, whole: bool = False) -> None: ...

    Moved.__name__ = moved
    package = "sglang.srt.mem_cache"
    modules = [ModuleType(name) for name in ("sglang", "sglang.srt", package)]
    for name, found in (
        ("registry", {"register_radix_cache_backend": lambda name, factory: None}),
        ("unified_radix_cache", {"UnifiedRadixCache": Cache}),
        ("pure_swa_radix_cache", {"PureSWARadixCache": Cache}),
    ):
        module = ModuleType(f"{package}.{name}")
        vars(module).update({key: Moved if key == moved else value for key, value in found.items()})
        modules.append(module)
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(PatchError, match=rf"{moved}\.checkpoint takes \(self, req, up_to, whole\)"):
        prompt_only_cache.PATCH.require_target()


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ({}, False),
        ({"disaggregation_decode_enable_radix_cache": True}, True),
        ({"disaggregation_decode_enable_radix_cache": True, "radix_cache_backend": PROMPT_ONLY_BACKEND}, False),
        *(({name: True}, True) for name in ANSWER_STORE_FLAGS),
        *(
            (
                {
                    "disaggregation_decode_enable_radix_cache": True,
                    "radix_cache_backend": PROMPT_ONLY_BACKEND,
                    name: True,
                },
                True,
            )
            for name in ANSWER_STORE_FLAGS
        ),
    ],
)
def test_card_states_whether_any_store_keeps_answers(flags: dict[str, Any], kept: bool) -> None:
    resolved = {
        "disaggregation_decode_enable_radix_cache": False,
        "disable_radix_cache": False,
        "radix_cache_backend": None,
        **dict.fromkeys(ANSWER_STORE_FLAGS, False),
    }
    assert keeps_answers(resolved | flags) == kept


def test_idle_controllers_socket_waits_for_a_message_and_reports_that_none_came() -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as read, context.socket(zmq.PUSH) as written:
        read.bind("inproc://controller")
        written.connect("inproc://controller")
        controller = SimpleNamespace(recv_from_tokenizer=read)
        wait_for_messages(controller)
        waits: list[int] = []
        read_at_once = read.poll
        vars(read)["poll"] = lambda timeout: waits.append(timeout) or read_at_once(timeout)
        with pytest.raises(zmq.Again):
            controller.recv_from_tokenizer.recv(flags=zmq.NOBLOCK)
        written.send(b"one")
        written.send_pyobj(["two"])
        assert controller.recv_from_tokenizer.recv(flags=zmq.NOBLOCK) == b"one"
        assert controller.recv_from_tokenizer.recv_pyobj(flags=zmq.NOBLOCK) == ["two"]
        assert waits == [WAIT_MS] * 3
        assert controller.recv_from_tokenizer.type == zmq.PULL


@pytest.mark.parametrize(
    ("sleeps", "idle", "waits"),
    [(True, False, [waiting_scheduler.WAIT_MS]), (True, True, []), (False, False, [])],
)
def test_scheduler_waits_between_polls_of_a_transfer(sleeps: bool, idle: bool, waits: list[int]) -> None:
    polls: list[int] = []
    calls: list[object] = []
    sleeper = SimpleNamespace(poller=SimpleNamespace(poll=polls.append)) if sleeps else None
    scheduler = SimpleNamespace(idle_sleeper=sleeper, is_fully_idle=lambda: idle)
    waiting_scheduler.pause_while_waiting(calls.append, scheduler)
    assert calls == [scheduler]
    assert polls == waits

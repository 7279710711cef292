"""What the installed SGLang answers to questions of tests; each is called in a process of its own (`ask_sglang`).

The functions change what they ask, and import SGLang themselves where a test names another module of it.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import re
import runpy
import sys
import threading
from collections import defaultdict
from functools import partial
from types import SimpleNamespace
from typing import Any

import zmq
from pydantic import TypeAdapter
from sglang.srt.arg_groups.overrides import _MAMBA_RADIX_CACHE_ARCHS
from sglang.srt.configs import model_config
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import CommonKVManager
from sglang.srt.disaggregation.mooncake.conn import MooncakeKVManager
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, CompletionRequest
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.plugins import load_plugins
from sglang.srt.sampling.sampling_params import SamplingParams
from zmq.utils.monitor import recv_monitor_message

from tests.support.interrupted_states import InterruptedStates


def request_fields() -> dict[str, list[str]]:
    """Return the fields of each kind of request; raises where an unknown field is refused."""
    CompletionRequest.model_validate({"prompt": "x", "unknown": 1})
    ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "x"}], "unknown": 1})
    TypeAdapter(GenerateReqInput).validate_python({"text": "x", "unknown": 1})
    return {
        "completions": list(CompletionRequest.model_fields),
        "chat": list(ChatCompletionRequest.model_fields),
        "generate": [field.name for field in dataclasses.fields(GenerateReqInput)],
        "sampling_params": list(SamplingParams.__struct_fields__),
    }


def decode_caches() -> dict[str, Any]:
    """Return which architectures SGLang refuses a decode cache, and which keep states in it.

    SGLang decides with the whole configuration of a model, of which the names alone matter here.
    """
    model_config.get_hybrid_layer_ids = lambda *_: ([], [])
    strings = [n.value for n in ast.walk(ast.parse(inspect.getsource(model_config))) if isinstance(n, ast.Constant)]
    refused = {}
    for name in strings:
        if isinstance(name, str) and re.fullmatch(r"[A-Z]\w*(For[A-Z]|MTP|Model|NextN)\w*", name):
            model: Any = SimpleNamespace(
                hf_config=SimpleNamespace(architectures=[name]),
                hf_text_config=SimpleNamespace(layer_types=["sliding_attention"], sliding_window=1),
                disable_hybrid_swa_memory=False,
                _detect_attention_sinks=lambda: False,
            )
            model_config.ModelConfig._derive_hybrid_model(model)
            special = getattr(model, "is_deepseek_v4_arch", False) or model.is_hybrid_swa_compress
            refused[name] = bool(model.is_hybrid_swa and special)
    return {"refused": refused, "states": sorted(_MAMBA_RADIX_CACHE_ARCHS)}


def pipeline_socket() -> dict[str, Any] | None:
    """Return whether the socket between pipeline ranks hears a stranger, and a rank; None without such a socket.

    A list stands in for the broadcast of rank 0's address.
    """
    if not importlib.util.find_spec("sglang.srt.disaggregation.pp_consensus_store"):
        return None
    load_plugins()
    from sglang.srt.disaggregation.pp_consensus_store import PPConsensusStore

    sent: list[Any] = []

    def broadcast(address: Any, src: int) -> Any:
        sent.append(address or sent[0])
        return sent[-1]

    group = SimpleNamespace(broadcast_object=broadcast)
    first, second = PPConsensusStore(2, 0, group), PPConsensusStore(2, 1, group)
    stranger = zmq.Context().socket(zmq.PUSH)
    ends = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    events = stranger.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | ends)
    stranger.connect(f"tcp://{sent[0][0]}:{sent[0][1]}")
    heard = recv_monitor_message(events)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
    second["room"] = 4
    while (state := first.collect("room")[1]) is None:
        first._worker_thread.join(0.01)
    return {"stranger is heard": heard, "state of the rank": state}


def interrupted_room() -> dict[str, str]:
    """Return the state of a room if the decode worker's message interrupts its opening, without and with the hook."""
    load_plugins()
    hooked: Any = CommonKVManager.update_status
    # with the hook the other thread waits for a lock
    ways = {"without": (inspect.unwrap(hooked), None), "with": (hooked, 0.2)}
    found = {}
    for name, (update, within) in ways.items():
        rooms = InterruptedStates(within)
        manager = SimpleNamespace(request_status=rooms, deferred_bootstrap=None, _deferred_ack_targets={})
        vars(manager).update(_deferred_ack_poisoned_rooms=set(), _staging_outstanding=defaultdict(int))
        rooms.other = threading.Thread(target=update, args=(manager, 1, KVPoll.WaitingForInput))
        update(manager, 1, KVPoll.Bootstrapping)
        rooms.other.join()
        found[name] = {KVPoll.Bootstrapping: "opened", KVPoll.WaitingForInput: "ready"}[rooms[1]]
    return found


class _Gone(dict[int, Any]):
    """States of transfers. The scheduler's thread removes the room once another thread has found it."""

    def __contains__(self, room: object) -> bool:
        return self.pop(room, None) is not None


def sender_after_a_room_that_is_gone() -> dict[str, str]:
    """Return how the loop that sends KV ends: a room goes while it is read, then SGLang ends the loop by None."""
    load_plugins()
    hooked: Any = MooncakeKVManager.transfer_worker
    found = {}
    for name, send in {"without": inspect.unwrap(hooked), "with": hooked}.items():
        chunk = SimpleNamespace(
            room=1, staging_counted=True, wait_event=None, indices_event=None, prefill_kv_indices=()
        )
        chunks = iter([chunk, None])
        rooms = _Gone({1: KVPoll.Transferring})
        manager: Any = SimpleNamespace(enable_trace=False, request_status=rooms, bootstrap_port=0)
        vars(manager).update(_staging_outstanding=defaultdict(int), poison_deferred_ack_room=lambda _room: None)
        manager.check_status = partial(CommonKVManager.check_status, manager)
        try:
            send(manager, SimpleNamespace(get=partial(next, chunks)), None)
        except RuntimeError as error:
            found[name] = repr(error.__context__)
        else:
            found[name] = "at its end"
    return found


def run_bench_serving(commands: list[list[str]]) -> None:
    """Run SGLang's own benchmark once for each line of arguments."""
    for arguments in commands:
        sys.argv = ["bench_serving", *arguments]
        runpy.run_module("sglang.bench_serving", run_name="__main__")

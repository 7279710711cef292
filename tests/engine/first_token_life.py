"""The life of requests whose first token the decode worker makes, on SGLang's own pools, cache, batches and queue.

For a process of its own (`ask_sglang`), where the hooks are not installed: the functions here call them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.disaggregation.decode import DecodePreallocQueue
from sglang.srt.managers.schedule_batch import ScheduleBatch
from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

from sun_sglang.patches.cache.prompt_only_cache import build
from sun_sglang.patches.first_token.first_step import start_with_last_token, take_last_token_back
from sun_sglang.patches.first_token.last_token import TOKEN_KEY, note_stands_in
from tests.engine.cache_worker import CacheWorker

TOKENS = 400
PROMPT = list(range(100, 149))


def outcomes() -> dict[str, Any]:
    """Return what happens to requests, by page size."""
    return {str(page): {"retracted": _retracted(page), **_ended(page)} for page in (1, 16)}


def lost() -> str:
    """Return how the scheduler ends on a request that was retracted before its first step, without the hook."""
    try:
        _Decoder.start(1).retract_and_resume(hook=False)
    except IndexError as e:
        return str(e)
    return ""


def draft() -> dict[str, list[int]]:
    """Return what SGLang's first verification of drafted tokens starts with, and the KV that it has."""
    decoder = _Decoder.start(1, speculative_algorithm="EAGLE", speculative_eagle_topk=1, speculative_num_steps=1)
    req = _receive(decoder.worker, PROMPT, "a")
    req.output_topk_p, req.output_topk_index = torch.ones(1), torch.tensor([5])
    req.hidden_states_tensor, req.output_dsa_topk_indices = torch.zeros(8), None
    batch = decoder.join([req])
    first = {
        "verified": batch.spec_info.bonus_tokens.tolist(),
        "drafted": batch.spec_info.topk_index.flatten().tolist(),
    }
    return first | {"kv": batch.seq_lens.tolist(), "output": list(req.output_ids)}


@dataclass
class _Decoder:
    """SGLang's scheduling of one decode worker, without a model.

    Attributes:
        worker: its pools and cache.
        algorithm: how it drafts tokens.
        inputs: the tokens with which requests joined the batch.
    """

    worker: CacheWorker
    algorithm: Any
    inputs: list[list[int]]

    @classmethod
    def start(cls, page: int, **flags: Any) -> _Decoder:
        worker = CacheWorker.start(build, "full", page, TOKENS)
        arguments = ServerArgs(
            model_path="none",
            device="cpu",
            page_size=page,
            disaggregation_mode="decode",
            disaggregation_decode_enable_radix_cache=True,
            disaggregation_decode_retraction_backup="cpu_tensor",
            **flags,
        )
        # read from the model's configuration otherwise
        arguments._mamba_cache_chunk_size = page
        set_global_server_args_for_scheduler(arguments)
        return cls(worker, SpeculativeAlgorithm.from_string(flags.get("speculative_algorithm")), [])

    def join(self, reqs: list[Any]) -> Any:
        """Return the batch of requests whose KV has arrived or is back."""
        for req in reqs:
            self.worker.start_decoding(req)
        model = SimpleNamespace(vocab_size=1000, is_encoder_decoder=False, hf_config=SimpleNamespace(architectures=[]))
        pools = self.worker.pools
        batch = ScheduleBatch.init_new(reqs, pools.rows, pools.slots, self.worker.cache, model, False, self.algorithm)
        batch.prepare_for_prebuilt()
        relay = SimpleNamespace(stash=lambda _rows, sent: self.inputs.append(sent.bonus_tokens.tolist()))
        start_with_last_token(ScheduleBatch.process_prebuilt, batch, relay)
        return batch

    def retract_and_resume(self, *, hook: bool = True) -> tuple[Any, Any]:
        """Fill the KV pool when a request joins, and empty it; return the request and the batch in which it resumed."""
        worker, slots = self.worker, self.worker.pools.slots
        older = worker.receive(list(range(50)), 7, "b")
        req = _receive(worker, PROMPT, "a")
        keys = slots.get_kvcache().get_key_buffer(0)
        sent = torch.tensor(PROMPT[:-1], dtype=keys.dtype)[:, None, None]
        keys[worker._row(req, 0, 48)] = sent.expand(-1, *keys.shape[1:])
        running = self.join([older, req])
        taken = slots.alloc(slots.available_size())
        assert not running.check_decode_mem(), "the pool is full"
        retracted, _, aborted = running.retract_decode()
        assert (retracted, aborted) == ([req], []), "it has the fewest output tokens"
        keys[:] = 0
        queue = self._queue(running)
        if hook:
            take_last_token_back(queue, req, is_retracted=True)
        queue.add(req, is_retracted=True)
        slots.free(taken)
        assert queue.resume_retracted_reqs() == [req], "there is room"
        return req, self.join([req])

    def _queue(self, running: Any) -> Any:
        slots = self.worker.pools.slots
        queue = DecodePreallocQueue.__new__(DecodePreallocQueue)
        queue.token_to_kv_pool_allocator, queue.token_to_kv_pool = slots, slots.get_kvcache()
        queue.req_to_token_pool, queue.tree_cache = self.worker.pools.rows, self.worker.cache
        queue.max_total_num_tokens, queue.num_reserved_decode_tokens = TOKENS, 8
        queue.enable_host_receive, queue.retracted_queue = False, []
        queue.transfer_queue = SimpleNamespace(queue=[])
        queue.scheduler = SimpleNamespace(
            running_batch=running,
            waiting_queue=[],
            last_batch=None,
            enable_hisparse=False,
            enable_overlap=False,
            tp_worker=SimpleNamespace(is_hybrid_swa=False),
        )
        return queue


def _retracted(page: int) -> dict[str, Any]:
    """Retract a request before its first step."""
    decoder = _Decoder.start(page)
    req, batch = decoder.retract_and_resume()
    keys = decoder.worker.pools.slots.get_kvcache().get_key_buffer(0)
    kv = keys[decoder.worker._row(req, 0, req.kv.kv_committed_len)][:, 0, 0].tolist()
    found = {"kv": kv, "prompt": list(req.origin_input_ids), "output": list(req.output_ids), "inputs": decoder.inputs}
    batch.prepare_for_decode()
    return found | {"computed": batch.seq_lens.tolist(), "retractions": req.retraction_count}


def _ended(page: int) -> dict[str, Any]:
    """Return what ended requests leave in the cache."""
    worker = CacheWorker.start(build, "full", page, TOKENS)
    found = {}
    for length, namespace in ((49, "b"), (48, "c")):
        req = _receive(worker, PROMPT[:length], namespace)
        start_with_last_token(lambda batch: worker.start_decoding(batch.reqs[0]), SimpleNamespace(reqs=[req]))
        for token in range(5):
            assert worker.add_token(req, token)
        worker.end(req)
        found[str(length)] = len(worker.reuse(PROMPT[:length], namespace).kv)
    return {"modules": sorted({content.module for content in worker.kept()}), "found": found}


def _receive(worker: CacheWorker, prompt: Sequence[int], namespace: str) -> Any:
    req = worker.receive(prompt[:-1], prompt[-1], namespace)
    assert req is not None, "there is room"
    req.sampling_params.custom_params = {TOKEN_KEY: prompt[-1]}
    note_stands_in(req)
    return req

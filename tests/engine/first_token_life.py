"""The life of requests whose first token the decode worker makes, on SGLang's own pools and cache.

For a process of its own (`ask_sglang`).
"""

from __future__ import annotations

from typing import Any

from sglang.srt.disaggregation.decode import DecodePreallocQueue

from sun_sglang.patches.cache.prompt_only_cache import build
from sun_sglang.patches.first_token.first_step import take_last_token_back
from sun_sglang.patches.first_token.last_token import TOKEN_KEY, move_to_prompt, note_stands_in
from tests.engine.cache_contents import Content
from tests.engine.cache_worker import CacheWorker

TOKENS = 400


def outcomes() -> dict[str, Any]:
    """Return what happens to requests, by page size."""
    return {str(page): _outcome(page) for page in (1, 16)}


def _outcome(page: int) -> dict[str, Any]:
    worker = CacheWorker.start(build, "full", page, TOKENS)
    prompt = list(range(100, 149))
    req = _receive(worker, prompt, "a")
    _start(worker, req)
    worker.put_aside(req)
    take_last_token_back(None, req, is_retracted=True)
    # SGLang asserts that it restores as many slots as it saved
    allocated = DecodePreallocQueue._pre_alloc_fill_len(req)
    assert worker.bring_back(req), "there is room"
    _start(worker, req)
    slots = worker._row(req, 0, req.kv.kv_committed_len)
    expected = [Content(text, "prefill") for text in worker.texts.of_prefixes(prompt)[:-1]]
    resumed = {
        "allocated": allocated,
        "contents": "right" if [worker.kv[slot] for slot in slots] == expected else "wrong",
        "prompt": len(req.origin_input_ids),
        "output": list(req.output_ids),
    }
    assert worker.add_token(req, 1)
    resumed["computed"] = req.kv.kv_committed_len
    worker.end(req)
    # requests that were never retracted leave their prompts in the cache
    found = {}
    for length, namespace in ((49, "b"), (48, "c")):
        other = _receive(worker, prompt[:length], namespace)
        _start(worker, other)
        for token in range(5):
            assert worker.add_token(other, token)
        worker.end(other)
        found[str(length)] = len(worker.reuse(prompt[:length], namespace).kv)
    modules = sorted({content.module for content in worker.kept()})
    return {"resumed": resumed, "modules": modules, "found": found}


def _receive(worker: CacheWorker, prompt: list[int], namespace: str) -> Any:
    req = worker.receive(prompt[:-1], prompt[-1], namespace)
    assert req is not None, "there is room"
    req.sampling_params.custom_params = {TOKEN_KEY: prompt[-1]}
    note_stands_in(req)
    return req


def _start(worker: CacheWorker, req: Any) -> None:
    worker.start_decoding(req)
    move_to_prompt(req)

"""A decode worker without a model: SGLang's own pools, cache and request life on the CPU, and the content of each slot.

Each slot of a KV pool or a Mamba pool holds a content: the text that it was computed from, and the module that computed
it. The worker writes contents where SGLang's workers write KV: the prefill module's when a prompt is received, the
decode module's with each token.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from sglang.srt.disaggregation.decode import _bind_root_prefix, alloc_for_decode_prealloc
from sglang.srt.managers.schedule_batch import FINISH_LENGTH, Req
from sglang.srt.mem_cache.allocation import ensure_mamba_capacity
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, MatchPrefixParams
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.common import checkpoint_kv_cache, evict_from_tree_cache, match_kv_cache, release_kv_cache
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.registry import TreeCacheBuildContext
from sglang.srt.mem_cache.unified_cache.component_type import ComponentType
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler

from tests.engine.cache_contents import NOTHING, Content, Reuse, Texts
from tests.engine.cache_pools import Kind, Pools, make_pools


@dataclass
class CacheWorker:
    """A decode worker: admits prompts, adds tokens, ends, puts aside and resumes requests as SGLang's scheduler does.

    Attributes:
        cache: the cache under test.
        pools: its pools.
        texts: the numbers in the contents.
        kv: what each KV slot holds.
        window_kv: what each slot of the window pool holds.
    """

    cache: Any
    pools: Pools
    texts: Texts = field(default_factory=Texts)
    kv: dict[int, Content] = field(default_factory=dict)
    window_kv: dict[int, Content] = field(default_factory=dict)
    # a state pool holds numbers; these are their contents
    _states: list[Content] = field(default_factory=lambda: [NOTHING])
    _aside: dict[str, tuple[list[Content], list[Content], Content]] = field(default_factory=dict)
    _count: int = 0

    @classmethod
    def start(cls, build: Callable[[Any], Any], kind: Kind, page: int, tokens: int) -> CacheWorker:
        """Start a worker with a cache.

        Args:
            build: a cache's factory, as SGLang's registry calls it.
            kind: the layers of the model.
            page: tokens of a page.
            tokens: size of the KV pool in tokens.
        """
        arguments = ServerArgs(model_path="none", device="cpu", page_size=page)
        # read from the model's configuration otherwise
        arguments._mamba_cache_chunk_size = page
        set_global_server_args_for_scheduler(arguments)
        pools = make_pools(kind, page, tokens)
        params = CacheInitParams(
            disable=False,
            req_to_token_pool=pools.rows,
            token_to_kv_pool_allocator=pools.slots,
            page_size=page,
            sliding_window_size=pools.window,
            enable_mamba_extra_buffer=pools.tracked,
        )
        context = TreeCacheBuildContext(
            server_args=arguments,
            params=params,
            is_hybrid_swa=pools.window is not None,
            is_hybrid_ssm=pools.mamba is not None,
            enable_hierarchical_cache=False,
            disable_radix_cache=False,
            tp_worker=None,
            model_config=None,
            tp_size=1,
            tp_rank=0,
            tp_group=None,
            full_tokens_per_layer=0 if kind == "window-only" else tokens,
        )
        return cls(build(context), pools)

    def receive(self, prompt: Sequence[int], first: int, namespace: str) -> Any | None:
        """Take a prompt, whose KV and state a prefill worker made, and its first token; None if there is no room."""
        self._count += 1
        req = Req(str(self._count), "", array("q", prompt), SamplingParams(), extra_key=namespace)
        if not self.pools.rows.available_size() or not self._has_state_for(req):
            return None
        tail = self._tail(len(prompt))
        match_kv_cache(
            req,
            self.cache,
            req.origin_input_ids,
            cow_mamba=self.pools.mamba is not None,
            max_prefix_len=len(prompt) - tail if tail else None,
        )
        req.lock = self.cache.lock(req.last_node)
        if tail and req.prefix_len:
            self.cache.release_swa(req.lock)
        found = self.cache.prefix_device_indices(req)
        if not self._make_room(len(prompt)):
            self.cache.unlock(req.lock)
            if req.kv.holds_mamba:
                release_kv_cache(req, self.cache, checkpoint=False)
            return None
        self._allocate(req, found, len(prompt))
        req.kv.cache_protected_len = len(found)
        self._write_kv(req, len(found), len(prompt), "prefill")
        self._write_state(req.kv.mamba_pool_idx, Content(self.texts.of_prefixes(prompt)[-1], "prefill"))
        req.output_ids.append(first)
        return req

    def start_decoding(self, req: Any) -> None:
        """Take a request that was received, or that came back, into the batch."""
        if req.last_node is None:
            _bind_root_prefix(req, self.cache)
        req.init_next_round_input(None)
        req.extend_end = req.kv.kv_committed_len
        # as in `disaggregation/decode_schedule_batch_mixin.py`, `process_prebuilt`
        req.swa_branching_seqlen = None
        checkpoint_kv_cache(req, self.cache)

    def add_token(self, req: Any, token: int) -> bool:
        """Compute the KV of a request's last token, and append the next; False if there is no room for it."""
        length = req.kv.kv_committed_len
        row = self.pools.rows.req_to_token[req.kv.req_pool_idx]
        if self.pools.window:
            self.cache.evict_sliding_windows(req, length)
        if not self._make_room(self.pools.page):
            return False
        if self.pools.page == 1:
            slot = self.pools.slots.alloc(1)
        else:
            end = torch.tensor([length + 1])
            slot = self.pools.slots.alloc_decode(end, end, row[length - 1 : length].long())
        row[length] = slot.item()
        req.kv.kv_committed_len = req.kv.kv_allocated_len = length + 1
        self._write_kv(req, length, length + 1, "decode")
        state = Content(self._texts_of(req)[length], "decode")
        self._write_state(req.kv.mamba_pool_idx, state)
        if self.pools.tracked and (length + 1) % self.pools.page == 0:
            self._track(req, state)
        req.output_ids.append(token)
        return True

    def end(self, req: Any) -> None:
        """End a request, as after its last token and after an abort."""
        req.finished_reason = FINISH_LENGTH(len(req.output_ids))
        release_kv_cache(req, self.cache, checkpoint=True)

    def put_aside(self, req: Any) -> None:
        """Copy what a request holds to the host, and free it."""
        slots = self._row(req, 0, req.kv.kv_committed_len)
        windows = [self.window_kv[s] if s > 0 else NOTHING for s in self._window_slots(slots)]
        self._aside[req.rid] = [self.kv[s] for s in slots], windows, self._state(req.kv.mamba_pool_idx)
        release_kv_cache(req, self.cache, checkpoint=False)
        req.reset_for_retract()

    def bring_back(self, req: Any) -> bool:
        """Give a request slots again, and load what they held; False if there is no room."""
        length = len(req.origin_input_ids) + len(req.output_ids) - 1
        if not self.pools.rows.available_size() or not self._has_state_for(req) or not self._make_room(length):
            return False
        contents, windows, state = self._aside.pop(req.rid)
        self._allocate(req, torch.empty(0, dtype=torch.int64), length)
        slots = self._row(req, 0, length)
        self.kv.update(zip(slots, contents, strict=True))
        self.window_kv.update(
            (slot, content) for slot, content in zip(self._window_slots(slots), windows, strict=False) if slot > 0
        )
        self._write_state(req.kv.mamba_pool_idx, state)
        return True

    def reuse(self, tokens: Sequence[int], namespace: str) -> Reuse:
        """Return what a request with these tokens would take from the cache."""
        key = RadixKey(array("q", tokens), namespace)
        match = self.cache.match_prefix(MatchPrefixParams(key=key))
        slots = self.cache.path_device_indices(match.last_device_node)[: match.device_prefix_len].tolist()
        windows = self._window_slots(slots)[-self.pools.window :] if self.pools.window else []
        state = None
        if self.pools.mamba and slots:
            core = self.cache.tree_core
            state = self._state(core.get_component_device_value(match.best_match_node, ComponentType.MAMBA))
        return Reuse([self.kv[s] for s in slots], [self.window_kv.get(s, NOTHING) for s in windows], state)

    def kept(self) -> list[Content]:
        """Return the contents of every KV slot and every state that the cache keeps."""
        if self.pools.window and not self.cache.swa_evictable_size() + self.cache.swa_protected_size():
            return []
        contents = [self.kv[slot] for slot in self.cache.all_values_flatten().tolist()]
        if self.pools.mamba:
            contents += [self._state(slot) for slot in self.cache.all_mamba_values_flatten()]
        return contents

    def forget(self, tokens: int = 1 << 20) -> None:
        """Evict this many tokens and states that no request holds."""
        self.cache.evict(EvictParams(num_tokens=tokens, swa_num_tokens=tokens, mamba_num=tokens))

    def _tail(self, length: int) -> int:
        """Return how many tokens get window slots when a prompt is received (`disaggregation/decode.py`); 0: all."""
        page, window = self.pools.page, self.pools.window
        if window is None or page == 1:
            return 0
        return length - max(0, length - 1 - max(window, page)) // page * page

    def _has_state_for(self, req: Any) -> bool:
        return self.pools.mamba is None or bool(ensure_mamba_capacity(self.pools.rows, [req], self.cache))

    def _make_room(self, tokens: int) -> bool:
        pages = -(-tokens // self.pools.page) * self.pools.page
        evict_from_tree_cache(self.cache, pages)
        return bool(self.pools.slots.available_size() >= pages)

    def _allocate(self, req: Any, found: Any, length: int) -> None:
        self.pools.rows.alloc([req])
        self.pools.rows.write((req.kv.req_pool_idx, slice(0, len(found))), found)
        tail = self._tail(length)
        slots = alloc_for_decode_prealloc(
            self.pools.slots,
            req=req,
            fill_len=length,
            delta_len=length - len(found),
            prefix_len=len(found),
            total_prefix_len=len(found),
            prefix_indices=found,
            uses_swa_tail=tail > 0,
            swa_tail_len=tail,
        )
        assert slots is not None, "there was room"
        self.pools.rows.write((req.kv.req_pool_idx, slice(len(found), length)), slots)
        req.kv.kv_committed_len = length
        # an earlier owner of the slots wrote them
        self.window_kv.update((s, NOTHING) for s in self._window_slots(slots.tolist()))

    def _row(self, req: Any, start: int, end: int) -> list[int]:
        return list(self.pools.rows.req_to_token[req.kv.req_pool_idx, start:end].tolist())

    def _window_slots(self, slots: Sequence[int]) -> list[int]:
        if self.pools.window is None:
            return []
        return list(self.pools.slots.translate_loc_from_full_to_swa(torch.tensor(slots, dtype=torch.int64)).tolist())

    def _texts_of(self, req: Any) -> list[int]:
        return self.texts.of_prefixes([*req.origin_input_ids, *req.output_ids])

    def _write_kv(self, req: Any, start: int, end: int, module: str) -> None:
        slots = self._row(req, start, end)
        contents = [Content(text, module) for text in self._texts_of(req)[start:end]]
        self.kv.update(zip(slots, contents, strict=True))
        windows = zip(self._window_slots(slots), contents, strict=False)
        self.window_kv.update((slot, content) for slot, content in windows if slot > 0)

    def _track(self, req: Any, state: Content) -> None:
        """Keep a state of an answer beside the running one (`scheduler_components/batch_result_processor.py`)."""
        kv = req.kv
        self._write_state(kv.mamba_ping_pong_track_buffer[kv.mamba_next_track_idx], state)
        kv.mamba_last_track_idx = kv.mamba_next_track_idx
        kv.mamba_next_track_idx = self.pools.rows.get_mamba_ping_pong_other_idx(kv.mamba_next_track_idx)
        kv.mamba_prev_track_seqlen, kv.mamba_last_track_seqlen = kv.mamba_last_track_seqlen, kv.kv_committed_len

    def _write_state(self, slot: Any, content: Content) -> None:
        if self.pools.mamba is not None:
            self._states.append(content)
            self.pools.mamba.mamba_cache.temporal[0, int(slot)] = float(len(self._states) - 1)

    def _state(self, slot: Any) -> Content:
        if self.pools.mamba is None:
            return NOTHING
        return self._states[int(self.pools.mamba.mamba_cache.temporal[0, int(slot), 0, 0, 0])]

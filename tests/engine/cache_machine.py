"""The life of a decode cache as a state machine, and the tokens that a second turn finds in it.

For a process of its own (`ask_sglang`): SGLang sets what its pools and caches read in the process that builds them.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sun_sglang.patches.cache.prompt_only_cache import build
from tests.engine.cache_contents import Content
from tests.engine.cache_pools import Kind
from tests.engine.cache_worker import CacheWorker

Drawn = TypeVar("Drawn")
MOST = 1000  # tokens of KV
LONGEST = 400  # tokens of a prompt
SETTINGS = settings(
    # a failure is reported as it was found: making it smaller takes minutes
    phases=(Phase.generate,),
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Life(RuleBasedStateMachine):
    """Requests of two namespaces on one worker, in any order of events. Prompts continue conversations."""

    kind: Kind
    page: int

    @initialize()
    def start(self) -> None:
        self.worker = CacheWorker.start(build, self.kind, self.page, MOST // self.page * self.page)
        self.free = self.worker.pools.free()
        self.running: list[Any] = []
        self.aside: list[Any] = []
        self.prompts: dict[str, set[int]] = {"a": set(), "b": set()}
        self.texts: list[tuple[str, list[int]]] = [("a", []), ("b", [])]

    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        req = self._receive(data)
        if req is not None:
            self.worker.start_decoding(req)
            self.running.append(req)

    @rule(data=st.data())
    def abort_before_the_first_step(self, data: st.DataObject) -> None:
        req = self._receive(data)
        if req is not None:
            self.worker.end(req)

    @staticmethod
    def _drawn(data: st.DataObject, items: Sequence[Drawn]) -> Drawn:
        # a number is short in the report of a failure
        return items[data.draw(st.integers(0, len(items) - 1))]

    def _receive(self, data: st.DataObject) -> Any:
        namespace, text = self._drawn(data, self.texts[-8:])
        cut = data.draw(st.integers(0, len(text)))
        new = data.draw(st.integers(1, 2 * max(self.page, 8)))
        prompt = [*text[:cut], *([data.draw(st.integers(1, 2))] * new)][:LONGEST]
        req = self.worker.receive(prompt, data.draw(st.integers(1, 2)), namespace)
        if req is not None:
            self.prompts[namespace].update(self.worker.texts.of_prefixes(prompt))
            self.texts.append((namespace, [*prompt, *req.output_ids]))
        return req

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def decode(self, data: st.DataObject) -> None:
        req = self._drawn(data, self.running)
        for _ in range(data.draw(st.integers(1, max(self.page, 12) + 1))):
            if not self.worker.add_token(req, data.draw(st.integers(1, 2))):
                break
        self.texts.append((req.extra_key, [*req.origin_input_ids, *req.output_ids]))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        req = self._drawn(data, self.running)
        self.running.remove(req)
        self.worker.end(req)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def put_aside(self, data: st.DataObject) -> None:
        req = self._drawn(data, self.running)
        self.running.remove(req)
        self.worker.put_aside(req)
        self.aside.append(req)

    @precondition(lambda self: self.aside)
    @rule(data=st.data())
    def bring_back(self, data: st.DataObject) -> None:
        req = self._drawn(data, self.aside)
        if self.worker.bring_back(req):
            self.worker.start_decoding(req)
            self.aside.remove(req)
            self.running.append(req)

    @rule(tokens=st.integers(1, MOST))
    def evict(self, tokens: int) -> None:
        self.worker.forget(tokens)

    @invariant()
    def the_cache_keeps_what_prefill_made_of_prompts(self) -> None:
        for content in self.worker.kept():
            assert content.module == "prefill"
            assert any(content.text in prompts for prompts in self.prompts.values())
        self.worker.cache.sanity_check()

    @invariant()
    def what_is_found_is_of_the_key(self) -> None:
        for namespace, text in self.texts[-8:]:
            of_key = [Content(number, "prefill") for number in self.worker.texts.of_prefixes(text)]
            found = self.worker.reuse(text, namespace)
            length = len(found.kv)
            assert found.kv == of_key[:length]
            assert all(content.text in self.prompts[namespace] for content in found.kv)
            assert found.window_kv == of_key[:length][-len(found.window_kv) :] if found.window_kv else True
            stateful = self.worker.pools.mamba is not None and length > 0
            assert found.state == (of_key[length - 1] if stateful else None)

    def teardown(self) -> None:
        if not hasattr(self, "worker"):
            return
        for req in self.running:
            self.worker.end(req)
        self.worker.forget()
        assert self.worker.pools.free() == self.free, "every slot is free again"


def failure(kind: Kind, page: int) -> str:
    """Run the machine on one kind of pools; return what went wrong, with the events that led to it, or nothing."""
    machine = type("Life", (Life,), {"kind": kind, "page": page})
    try:
        run_state_machine_as_test(machine, settings=SETTINGS)
    except Exception as e:
        return "".join([*traceback.format_exception(e), *getattr(e, "__notes__", ())])
    return ""


def found_later(kind: Kind, page: int) -> list[int]:
    """Return how many tokens a second turn finds: after admission, after the end, and after a return without an answer.

    Before that return everything was evicted. The prompt has 150 tokens, and the answer 70.
    """
    worker = CacheWorker.start(build, kind, page, MOST // page * page)
    prompt = [1 + i % 7 for i in range(150)]
    found = []

    def look(text: list[int]) -> None:
        found.append(len(worker.reuse(text, "a").kv))

    first = worker.receive(prompt, 8, "a")
    worker.start_decoding(first)
    look(prompt)
    for _ in range(70):
        worker.add_token(first, 8)
    worker.end(first)
    look([*prompt, *first.output_ids])
    second = worker.receive(prompt, 8, "a")
    worker.start_decoding(second)
    worker.put_aside(second)
    worker.forget()
    worker.bring_back(second)
    worker.start_decoding(second)
    look(prompt)
    return found


def outcomes(cases: list[str]) -> dict[str, dict[str, Any]]:
    """Return what the machine and the second turns found in cases such as `full/16`."""
    found: dict[str, dict[str, Any]] = {}
    for case in cases:
        kind, page = case.split("/")
        pools: tuple[Any, int] = (kind, int(page))
        found[case] = {"failure": failure(*pools), "found": found_later(*pools)}
    return found

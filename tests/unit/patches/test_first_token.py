"""The hooks with which a decode worker makes the first token, on stand-ins for SGLang's objects.

The stand-ins do what SGLang does at these places; `tests/engine/test_first_token.py` runs SGLang itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sun_sglang.contracts.first_token import ONE_TOKEN, mark_decode_first
from sun_sglang.patches.cache.prompt_only_cache import _is_admitted
from sun_sglang.patches.first_token.first_output import send_output_only, skip_waiting
from sun_sglang.patches.first_token.first_step import commit_last_token, start_with_last_token, take_last_token_back
from sun_sglang.patches.first_token.last_token import ROW_KEY, TOKEN_KEY, has_no_output, stands_in
from sun_sglang.patches.first_token.penalties import count_output_only
from sun_sglang.patches.first_token.prompt_logprobs import add_last_row, score_last_token
from sun_sglang.patches.first_token.split_prompt import require_two_tokens, split_prompt

PROMPT = [11, 12, 13, 14, 15]
HANDED = 99  # sampled by the prefill worker
SCHEDULER = SimpleNamespace(max_req_len=100)


def tokenized(prompt: list[int] = PROMPT, extra_key: str | None = None, **fields: Any) -> Any:
    """Return SGLang's `TokenizedGenerateReqInput`; it has the mark unless `extra_key` is given."""
    return SimpleNamespace(
        input_ids=array("q", prompt),
        extra_key=mark_decode_first("base@w") if extra_key is None else extra_key,
        sampling_params=SimpleNamespace(custom_params=None, max_new_tokens=8),
        **{"return_logprob": False, "logprob_start_len": -1, **fields},
    )


class Grammar:
    def __init__(self) -> None:
        self.accepted: list[int] = []

    def accept_token(self, token: int) -> None:
        self.accepted.append(token)


def request(prompt: list[int] = PROMPT, *, marked: bool = True, **fields: Any) -> Any:
    """Return SGLang's `Req` of a prompt as the decode worker holds it before the KV has arrived."""
    received = tokenized(prompt, None if marked else "base@w")
    split_prompt(SCHEDULER, received)
    ids = received.input_ids
    return SimpleNamespace(
        origin_input_ids=ids,
        origin_input_ids_unpadded=ids,
        output_ids=array("q"),
        sampling_params=received.sampling_params,
        grammar=Grammar(),
        to_finish=None,
        finished=lambda: False,
        retracted_stain=False,
        decode_batch_idx=0,
        pd_rebootstrap_forced_output_id=None,
        time_stats=SimpleNamespace(set_decode_prebuilt_finish_time=lambda: None),
        logprobs=[],
        **fields,
    )


def commit(queue: Any, decode_req: Any) -> None:
    """Commit a transfer as SGLang does: the handed-over token has a logprob, and a replayed one has none."""
    req = decode_req.req
    replayed = decode_req.is_rebootstrap and req.pd_rebootstrap_forced_output_id is not None
    req.output_ids.append(req.pd_rebootstrap_forced_output_id if replayed else HANDED)
    if replayed:
        req.pd_rebootstrap_forced_output_id = None
    else:
        req.logprobs.append(-0.5)


def process_prebuilt(batch: Any, _future_map: Any = None) -> None:
    """Start requests as SGLang does: the last entry of the output is the first input, and the grammar accepts it."""
    batch.inputs = []
    for req in batch.reqs:
        batch.inputs.append(req.output_ids[-1])
        if req.grammar is not None:
            req.grammar.accept_token(req.output_ids[-1])


def handed_over(req: Any) -> Any:
    """Return the request after the commit of its transfer."""
    decode_req = SimpleNamespace(req=req, is_rebootstrap=False)
    commit_last_token(commit, None, decode_req)
    assert decode_req.is_rebootstrap is False
    assert req.pd_rebootstrap_forced_output_id is None
    return req


def started(*reqs: Any) -> Any:
    """Return the batch that the requests join."""
    batch = SimpleNamespace(reqs=list(reqs), return_logprob=False)
    start_with_last_token(process_prebuilt, batch, None)
    return batch


# --- the prompt -----------------------------------------------------------------------------------------------------


def test_marked_prompt_loses_its_last_token_and_its_mark() -> None:
    received = tokenized()
    received.sampling_params.custom_params = {"thinking_budget": 3}
    split_prompt(SCHEDULER, received)
    assert list(received.input_ids) == PROMPT[:-1]
    assert received.extra_key == "base@w"
    assert received.sampling_params.custom_params == {"thinking_budget": 3, TOKEN_KEY: PROMPT[-1]}


@pytest.mark.parametrize(("asked", "limit"), [(None, 94), (500, 94), (94, 94), (3, 3), (0, 0)])
def test_answer_to_a_split_prompt_has_the_room_that_the_whole_prompt_leaves(asked: int | None, limit: int) -> None:
    received = tokenized()
    received.sampling_params.max_new_tokens = asked
    split_prompt(SCHEDULER, received)
    assert received.sampling_params.max_new_tokens == limit
    whole = tokenized(extra_key="base@w")
    whole.sampling_params.max_new_tokens = asked
    split_prompt(SCHEDULER, whole)
    assert whole.sampling_params.max_new_tokens == asked, "SGLang limits it"


def test_prompt_that_fills_the_context_leaves_no_room() -> None:
    received = tokenized(list(range(101)))
    split_prompt(SCHEDULER, received)
    assert received.sampling_params.max_new_tokens == 0


def test_prompt_that_a_pipeline_rank_passes_on_is_split_once() -> None:
    received = tokenized()
    split_prompt(SCHEDULER, received)
    split_prompt(SCHEDULER, received)
    assert list(received.input_ids) == PROMPT[:-1]


@pytest.mark.parametrize("extra_key", ["", "base@w", 'base@w#["@first-token-from-decode@x",null]'])
def test_prompt_without_a_mark_is_left_whole(extra_key: str) -> None:
    received = tokenized(extra_key=extra_key)
    split_prompt(SCHEDULER, received)
    assert (list(received.input_ids), received.extra_key) == (PROMPT, extra_key)
    assert received.sampling_params.custom_params is None


def test_scheduler_that_receives_a_marked_prompt_of_one_token_leaves_it_whole() -> None:
    received = tokenized([7])
    split_prompt(SCHEDULER, received)
    assert (list(received.input_ids), received.extra_key) == ([7], "base@w")
    assert received.sampling_params.custom_params is None


@pytest.mark.parametrize(
    ("fields", "start", "row"),
    [
        ({"return_logprob": True, "logprob_start_len": 0}, 0, True),
        ({"return_logprob": True, "logprob_start_len": 4}, 4, True),
        ({"return_logprob": True, "logprob_start_len": 5}, 4, False),
        ({"return_logprob": True, "logprob_start_len": 6}, 6, False),  # SGLang refuses it, in both modes
        ({"return_logprob": True, "logprob_start_len": -1}, -1, False),
        ({"return_logprob": False, "logprob_start_len": 0}, 0, False),
    ],
)
def test_logprobs_of_a_split_prompt_begin_where_the_client_asked(fields: Any, start: int, row: bool) -> None:
    received = tokenized(**fields)
    split_prompt(SCHEDULER, received)
    assert received.logprob_start_len == start
    assert (ROW_KEY in received.sampling_params.custom_params) is row


@pytest.mark.parametrize("ids", [[], [7], None])
def test_prompt_of_one_token_is_refused_where_the_decode_worker_runs_the_last(ids: list[int] | None) -> None:
    with pytest.raises(ValueError, match="needs two"):
        require_two_tokens(None, None, tokenized(), ids)
    require_two_tokens(None, None, tokenized(extra_key="base@w"), ids)
    require_two_tokens(None, None, SimpleNamespace(), ids)
    require_two_tokens(None, None, tokenized(), [7, 8])
    assert "one token" in ONE_TOKEN


# --- the first step -------------------------------------------------------------------------------------------------


def test_first_step_runs_the_last_prompt_token_and_the_prompt_is_whole_again() -> None:
    req = handed_over(request())
    assert (list(req.output_ids), req.logprobs) == ([PROMPT[-1]], []), "no logprob of a token that nobody sampled"
    batch = started(req)
    assert batch.inputs == [PROMPT[-1]]
    assert (list(req.origin_input_ids), list(req.output_ids)) == (PROMPT, [])
    assert req.origin_input_ids_unpadded is req.origin_input_ids


def test_request_of_the_other_mode_in_the_same_batch_is_left_as_it_is() -> None:
    plain, marked = handed_over(request(marked=False)), handed_over(request())
    batch = started(plain, marked)
    assert batch.inputs == [HANDED, PROMPT[-1]]
    assert (list(plain.origin_input_ids), list(plain.output_ids), plain.logprobs) == (PROMPT, [HANDED], [-0.5])
    assert plain.grammar.accepted == [HANDED]
    assert not has_no_output(plain)


def test_grammar_accepts_no_prompt_token() -> None:
    req = handed_over(request())
    grammar = req.grammar
    started(req)
    assert req.grammar is grammar
    assert grammar.accepted == []


def test_grammar_is_back_after_a_start_that_failed() -> None:
    req = handed_over(request())
    grammar = req.grammar

    def fail(*_args: Any) -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        start_with_last_token(fail, SimpleNamespace(reqs=[req]))
    assert req.grammar is grammar


def test_prompt_that_a_cache_key_refers_to_is_not_changed_in_place() -> None:
    req = handed_over(request())
    key = req.origin_input_ids
    started(req)
    assert list(key) == PROMPT[:-1]


def test_prompt_and_its_unpadded_form_get_the_token_each() -> None:
    req = handed_over(request())
    req.origin_input_ids_unpadded = array("q", [1, 2])
    started(req)
    assert list(req.origin_input_ids) == PROMPT
    assert list(req.origin_input_ids_unpadded) == [1, 2, PROMPT[-1]]


def test_corrupt_transfer_of_a_marked_request_leaves_it_without_output() -> None:
    req = request()
    commit_last_token(lambda _queue, _decode_req: None, None, SimpleNamespace(req=req, is_rebootstrap=False))
    assert not stands_in(req)
    assert req.pd_rebootstrap_forced_output_id is None


def test_request_whose_kv_is_computed_anew_is_committed_by_sglang_alone() -> None:
    req = request()
    req.pd_rebootstrap_forced_output_id = 5
    commit_last_token(commit, None, SimpleNamespace(req=req, is_rebootstrap=True))
    assert list(req.output_ids) == [5]


# --- retraction -----------------------------------------------------------------------------------------------------


def test_request_retracted_before_its_first_token_resumes_with_the_last_prompt_token() -> None:
    req = handed_over(request())
    started(req)
    take_last_token_back(None, req, is_retracted=True)
    # SGLang's formula for the KV of a resumed request, and for what it saved at the retraction
    assert len(req.origin_input_ids) + max(len(req.output_ids) - 1, 0) == len(PROMPT) - 1
    assert list(req.output_ids) == [PROMPT[-1]]
    batch = started(req)
    assert batch.inputs == [PROMPT[-1]]
    assert req.grammar.accepted == []
    assert (list(req.origin_input_ids), list(req.output_ids)) == (PROMPT, [])


def test_request_retracted_twice_before_its_first_token_resumes_twice() -> None:
    req = handed_over(request())
    for _ in range(2):
        started(req)
        take_last_token_back(None, req, is_retracted=True)
        take_last_token_back(None, req, is_retracted=True)
    started(req)
    assert (list(req.origin_input_ids), list(req.output_ids)) == (PROMPT, [])


def test_request_retracted_after_its_first_token_keeps_prompt_and_output() -> None:
    req = handed_over(request())
    started(req)
    req.output_ids.append(21)
    take_last_token_back(None, req, is_retracted=True)
    assert (list(req.origin_input_ids), list(req.output_ids)) == (PROMPT, [21])
    batch = started(req)
    assert batch.inputs == [21]
    assert (list(req.origin_input_ids), list(req.output_ids)) == (PROMPT, [21])


def pause_for_new_weights(req: Any) -> list[int]:
    """Remove the last output as SGLang does, queue the request again, and return what the prefill worker computes."""
    if req.output_ids:
        req.pd_rebootstrap_forced_output_id = req.output_ids.pop()
    take_last_token_back(None, req, is_rebootstrap=True)
    return [*req.origin_input_ids, *req.output_ids]


def test_request_paused_before_its_first_token_has_it_from_the_decode_module() -> None:
    for join in (False, True):
        req = handed_over(request())
        if join:
            started(req)
        for _ in range(2):
            assert pause_for_new_weights(req) == PROMPT[:-1]
            commit_last_token(commit, None, SimpleNamespace(req=req, is_rebootstrap=True))
            batch = started(req)
            assert batch.inputs == [PROMPT[-1]]
            assert (list(req.origin_input_ids), list(req.output_ids), req.logprobs) == (PROMPT, [], [])
            assert req.grammar.accepted == []


def test_request_paused_after_its_first_token_continues_with_it() -> None:
    req = handed_over(request())
    started(req)
    req.output_ids.append(21)
    assert pause_for_new_weights(req) == PROMPT
    commit_last_token(commit, None, SimpleNamespace(req=req, is_rebootstrap=True))
    assert started(req).inputs == [21]
    assert (list(req.origin_input_ids), list(req.output_ids)) == (PROMPT, [21])


def test_paused_request_of_the_other_mode_is_left_to_sglang() -> None:
    req = request(marked=False)
    assert pause_for_new_weights(req) == PROMPT
    commit_last_token(commit, None, SimpleNamespace(req=req, is_rebootstrap=True))
    assert list(req.output_ids) == [HANDED]


def test_request_that_is_queued_for_its_transfer_is_not_changed() -> None:
    for req in (request(), request(marked=False)):
        before = list(req.origin_input_ids)
        take_last_token_back(None, req)
        assert (list(req.origin_input_ids), list(req.output_ids)) == (before, [])


# --- the cache ------------------------------------------------------------------------------------------------------


def test_cache_admits_a_prompt_up_to_the_token_that_the_decode_module_ran() -> None:
    req = handed_over(request())
    assert _is_admitted(req, len(PROMPT) - 1)
    started(req)
    assert _is_admitted(req, len(PROMPT) - 1)
    assert not _is_admitted(req, len(PROMPT)), "its last KV is the decode module's"
    plain = handed_over(request(marked=False))
    assert _is_admitted(plain, len(PROMPT))
    assert not _is_admitted(plain, len(PROMPT) + 1)


# --- the first output -----------------------------------------------------------------------------------------------


class Processor:
    """Ends a request at once where its stop rule matches the empty text, as a regular expression may."""

    def __init__(self) -> None:
        self.checked: list[Any] = []

    def process(self, batch: Any) -> None:
        self.checked += batch.reqs


def join(batch: Any) -> list[Any]:
    processor = Processor()
    skip_waiting(lambda p, b: p.process(b), processor, batch)
    return processor.checked


def test_request_without_output_is_not_checked_for_its_end_and_stays_in_the_batch() -> None:
    plain, marked = handed_over(request(marked=False)), handed_over(request())
    batch = started(plain, marked)
    assert join(batch) == [plain]
    assert batch.reqs == [plain, marked]


def test_aborted_request_without_output_ends_when_it_joins() -> None:
    req = handed_over(request())
    req.to_finish = "abort"
    assert join(started(req)) == [req]


def test_request_for_no_token_ends_when_it_joins() -> None:
    req = handed_over(request())
    req.sampling_params.max_new_tokens = 0
    assert join(started(req)) == [req]


def test_batch_is_whole_again_after_a_check_that_failed() -> None:
    marked = handed_over(request())
    batch = started(marked)

    def fail(*_args: Any) -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        skip_waiting(fail, None, batch)
    assert batch.reqs == [marked]


def sent(*reqs: Any) -> list[Any]:
    found: list[Any] = []

    def send(_streamer: Any, reqs: list[Any], return_logprob: bool, skip_req: Any = None) -> None:
        found.extend(reqs)

    send_output_only(send, None, list(reqs), False)
    return found


def test_no_chunk_is_sent_before_the_first_token() -> None:
    plain, marked = handed_over(request(marked=False)), handed_over(request())
    assert sent(plain, marked) == [plain], "the last prompt token stands in"
    started(marked)
    assert sent(plain, marked) == [plain]
    marked.output_ids.append(21)
    assert sent(plain, marked) == [plain, marked]


def test_request_retracted_before_its_first_token_sends_no_prompt_token() -> None:
    """With the overlap loop the batch of the retracted step is processed after the retraction."""
    req = handed_over(request())
    started(req)
    take_last_token_back(None, req, is_retracted=True)
    assert sent(req) == []


def test_end_of_a_request_without_output_is_sent() -> None:
    req = handed_over(request())
    started(req)
    req.finished = lambda: True
    assert sent(req) == [req]


# --- penalties ------------------------------------------------------------------------------------------------------


class Frequency:
    def __init__(self, rows: int) -> None:
        self.cumulated_frequency_penalties = torch.zeros(rows, 100)

    def cumulate(self, ids: torch.Tensor) -> None:
        self.cumulated_frequency_penalties.scatter_add_(1, ids.unsqueeze(1), torch.ones(len(ids), 1))


class Length:
    def __init__(self, rows: int) -> None:
        self.len_output_tokens = torch.zeros(rows, 1, dtype=torch.int32)

    def cumulate(self, ids: torch.Tensor) -> None:
        self.len_output_tokens += 1


class Orchestrator:
    """SGLang's penalizers of a batch; without output SGLang counts the last prompt token."""

    def __init__(self, *reqs: Any) -> None:
        self._reqs = list(reqs)
        self.frequency, self.length = Frequency(len(reqs)), Length(len(reqs))
        self.penalizers = {
            Frequency: self.frequency,
            Length: self.length,
            str: SimpleNamespace(cumulate=lambda _: None),
        }

    def reqs(self) -> list[Any]:
        return self._reqs

    def step(self) -> None:
        """Prepare a decode step."""
        last = [r.output_ids[-1] if r.output_ids else r.origin_input_ids[-1] for r in self._reqs]
        count_output_only(Orchestrator.cumulate, self, torch.tensor(last))
        for req in self._reqs:
            req.decode_batch_idx += 1

    def cumulate(self, ids: torch.Tensor) -> None:
        for penalizer in self.penalizers.values():
            penalizer.cumulate(ids)

    def counted(self, row: int) -> dict[int, int]:
        values = self.frequency.cumulated_frequency_penalties[row]
        return {i: int(values[i]) for i in values.nonzero().flatten().tolist()}

    def lengths(self) -> list[int]:
        return self.length.len_output_tokens.flatten().tolist()


def test_penalties_count_output_tokens_alone() -> None:
    plain, marked = handed_over(request(marked=False)), handed_over(request())
    started(plain, marked)
    orchestrator = Orchestrator(plain, marked)
    orchestrator.step()
    assert (orchestrator.counted(0), orchestrator.counted(1)) == ({HANDED: 1}, {})
    assert orchestrator.lengths() == [1, 0], "`min_new_tokens` counts no prompt token"
    plain.output_ids.append(21)
    marked.output_ids.append(22)
    orchestrator.step()
    assert (orchestrator.counted(0), orchestrator.counted(1)) == ({HANDED: 1, 21: 1}, {22: 1})
    assert orchestrator.lengths() == [2, 1]


def test_penalties_with_the_overlap_loop_count_the_length_of_what_is_on_its_way() -> None:
    """The second step is prepared before the first token is known."""
    marked = handed_over(request())
    started(marked)
    orchestrator = Orchestrator(marked)
    orchestrator.step()
    orchestrator.step()
    assert (orchestrator.counted(0), orchestrator.lengths()) == ({}, [1])
    marked.output_ids.append(22)
    orchestrator.step()
    assert (orchestrator.counted(0), orchestrator.lengths()) == ({22: 1}, [2])


# --- logprobs of the prompt -------------------------------------------------------------------------------------------


def prefilling(start: int, **changes: Any) -> Any:
    """Return a request on the prefill worker that asks for the logprobs of its prompt."""
    received = tokenized(return_logprob=True, logprob_start_len=start)
    split_prompt(SCHEDULER, received)
    logprob = SimpleNamespace(
        **dict.fromkeys(
            (
                *("input_token_logprobs_val", "input_token_logprobs_idx", "input_top_logprobs_val"),
                *("input_top_logprobs_idx", "input_token_ids_logprobs_val", "input_token_ids_logprobs_idx"),
            )
        ),
        **{"top_logprobs_num": 2, "token_ids_logprob": [3], **changes},
    )
    return SimpleNamespace(
        origin_input_ids=received.input_ids,
        sampling_params=received.sampling_params,
        logprob=logprob,
        return_flat_raw_top_logprobs=False,
    )


def extend(*chunks: tuple[Any, int, int, int]) -> Any:
    """Return a prefill batch of (request, cached tokens, tokens, first token of the chunk that is scored)."""
    ids = [
        token
        for req, prefix, length, start in chunks
        for token in [*req.origin_input_ids[prefix + start + 1 : prefix + length + 1], 0, 0][: length - start]
    ]
    batch = SimpleNamespace(
        reqs=[req for req, *_ in chunks],
        prefix_lens=[prefix for _, prefix, *_ in chunks],
        extend_lens=[length for *_, length, _ in chunks],
        extend_logprob_start_lens=[start for *_, start in chunks],
        extend_input_logprob_token_ids=torch.tensor(ids, dtype=torch.int64),
    )
    score_last_token(None, batch)
    return batch


def test_prefill_scores_the_last_prompt_token_in_the_place_of_the_token_to_sample() -> None:
    plain = prefilling(0)
    plain.sampling_params.custom_params = None
    batch = extend((plain, 0, 4, 0), (prefilling(0), 0, 4, 0), (prefilling(2), 1, 3, 1))
    assert batch.extend_input_logprob_token_ids.tolist() == [12, 13, 14, 0, 12, 13, 14, 15, 14, 15]


def test_prefill_of_a_chunk_before_the_last_scores_as_before() -> None:
    assert extend((prefilling(0), 0, 2, 0)).extend_input_logprob_token_ids.tolist() == [12, 13]


def test_prefill_without_logprobs_has_nothing_to_score() -> None:
    batch = SimpleNamespace(extend_input_logprob_token_ids=None)
    score_last_token(None, batch)
    assert batch == SimpleNamespace(extend_input_logprob_token_ids=None)


OUTPUT = SimpleNamespace(
    input_token_logprobs=(-9.0, -1.0, -2.0, -3.0, -4.0),
    input_top_logprobs_val=[None, [[-1.1], [-2.1], [-3.1], [-4.1]]],
    input_top_logprobs_idx=[None, [[1], [2], [3], [4]]],
    input_token_ids_logprobs_val=[None, torch.tensor([[-1.2], [-2.2], [-3.2], [-4.5]])],
    input_token_ids_logprobs_idx=[None, [[3], [3], [3], [3]]],
)


class LogprobProcessor:
    """SGLang's: a first row without values, and no row for the token to sample."""

    model_config = SimpleNamespace(vocab_size=100)

    def __init__(self) -> None:
        self.flattened: list[int] = []

    def add(self, i: int, req: Any, pt: int, _next: list[int], rows: int, output: Any) -> int:
        logprob, tokens = req.logprob, list(req.origin_input_ids)
        if logprob.input_token_logprobs_val is not None:
            return rows
        first = [None] if rows else []
        logprob.input_token_logprobs_val = [*first, *output.input_token_logprobs[pt : pt + rows - 1]] if rows else []
        logprob.input_token_logprobs_idx = tokens[len(tokens) - rows :] if rows else []
        for name in ("top_logprobs_val", "top_logprobs_idx", "token_ids_logprobs_val", "token_ids_logprobs_idx"):
            values = [*first, *getattr(output, f"input_{name}")[i][: rows - 1]] if rows else []
            setattr(logprob, f"input_{name}", values)
        assert not req.return_flat_raw_top_logprobs
        return rows

    def _flatten_input_top_logprobs(self, req: Any) -> None:
        self.flattened.append(len(req.logprob.input_top_logprobs_val))


def test_reply_has_the_logprob_of_the_last_prompt_token() -> None:
    req = prefilling(0)
    assert add_last_row(LogprobProcessor.add, LogprobProcessor(), 1, req, 1, [HANDED], 4, OUTPUT) == 4
    assert req.logprob.input_token_logprobs_val == [None, -1.0, -2.0, -3.0, -4.0]
    assert req.logprob.input_token_logprobs_idx == PROMPT
    assert req.logprob.input_top_logprobs_val[-1] == [-4.1]
    assert req.logprob.input_top_logprobs_idx[-1] == [4]
    assert req.logprob.input_token_ids_logprobs_val[-1] == pytest.approx([-4.5])
    assert req.logprob.input_token_ids_logprobs_idx[-1] == [3]
    assert len(req.logprob.input_token_ids_logprobs_val) == len(req.logprob.input_top_logprobs_val) == len(PROMPT)


def test_reply_that_begins_with_the_last_prompt_token_has_its_row_without_a_value() -> None:
    req = prefilling(4)
    add_last_row(LogprobProcessor.add, LogprobProcessor(), 1, req, 1, [HANDED], 0, OUTPUT)
    assert (req.logprob.input_token_logprobs_val, req.logprob.input_token_logprobs_idx) == ([None], [PROMPT[-1]])
    assert req.logprob.input_top_logprobs_val == req.logprob.input_token_ids_logprobs_idx == [None]


def test_reply_with_flat_arrays_gets_its_last_row_before_they_are_made() -> None:
    req, processor = prefilling(0), LogprobProcessor()
    req.return_flat_raw_top_logprobs = True
    add_last_row(LogprobProcessor.add, processor, 1, req, 1, [HANDED], 4, OUTPUT)
    assert processor.flattened == [len(PROMPT)]
    assert req.return_flat_raw_top_logprobs


def test_prompt_that_is_computed_again_gets_its_last_row_once() -> None:
    req = prefilling(0)
    for _ in range(2):
        add_last_row(LogprobProcessor.add, LogprobProcessor(), 1, req, 1, [HANDED], 4, OUTPUT)
    assert req.logprob.input_token_logprobs_idx == PROMPT


@pytest.mark.parametrize("make", [lambda: prefilling(5), lambda: prefilling(-1)])
def test_reply_without_logprobs_of_the_last_prompt_token_gets_no_row(make: Callable[[], Any]) -> None:
    req = make()
    add_last_row(LogprobProcessor.add, LogprobProcessor(), 1, req, 1, [HANDED], 0, OUTPUT)
    assert req.logprob.input_token_logprobs_val == []


def test_last_token_of_the_vocabulary_is_reported_as_sglang_reports_it() -> None:
    req = prefilling(0)
    req.sampling_params.custom_params[TOKEN_KEY] = 99
    add_last_row(LogprobProcessor.add, LogprobProcessor(), 1, req, 1, [HANDED], 4, OUTPUT)
    assert req.logprob.input_token_logprobs_idx[-1] == 0

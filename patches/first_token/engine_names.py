"""Every name of SGLang that this folder uses, except the targets of its patches (`../engine_names.py`)."""

from __future__ import annotations

from sun_sglang.patches.engine_use import Use

_SRT = "sglang.srt"
_LAST = "patches/first_token/last_token.py"
_SPLIT = "patches/first_token/split_prompt.py"
_STEP = "patches/first_token/first_step.py"
_OUTPUT = "patches/first_token/first_output.py"
_PENALTIES = "patches/first_token/penalties.py"
_LOGPROBS = "patches/first_token/prompt_logprobs.py"
USES = (
    Use(
        f"{_SRT}.managers.tokenizer_manager",
        _SPLIT,
        keys=("self._validate_one_request(obj, input_ids)", "extra_key=obj.extra_key"),
    ),
    Use(
        f"{_SRT}.managers.io_struct:TokenizedGenerateReqInput",
        _SPLIT,
        attributes=("extra_key", "input_ids", "logprob_start_len", "return_logprob", "sampling_params"),
    ),
    Use(f"{_SRT}.sampling.sampling_params:SamplingParams", f"{_LAST}, {_SPLIT}", attributes=("custom_params",)),
    Use(f"{_SRT}.sampling.sampling_params:SamplingParams", f"{_OUTPUT}, {_SPLIT}", attributes=("max_new_tokens",)),
    Use(f"{_SRT}.managers.scheduler:Scheduler", _SPLIT, attributes=("max_req_len",)),
    Use(
        f"{_SRT}.managers.scheduler:Scheduler.init_req_max_new_tokens",
        _SPLIT,
        keys=("self.max_req_len - input_len - 1",),
    ),
    Use(
        f"{_SRT}.managers.schedule_batch:Req",
        _LAST,
        attributes=("origin_input_ids", "origin_input_ids_unpadded", "output_ids", "sampling_params"),
    ),
    Use(
        f"{_SRT}.managers.schedule_batch:Req",
        _STEP,
        attributes=("grammar", "output_ids", "pd_rebootstrap_forced_output_id"),
    ),
    Use(
        f"{_SRT}.managers.schedule_batch:Req",
        _OUTPUT,
        attributes=("finished", "sampling_params", "time_stats", "to_finish"),
    ),
    Use(f"{_SRT}.managers.schedule_batch:Req", _PENALTIES, attributes=("decode_batch_idx",)),
    Use(
        f"{_SRT}.managers.schedule_batch:Req",
        _LOGPROBS,
        attributes=("logprob", "origin_input_ids", "return_flat_raw_top_logprobs"),
    ),
    Use(f"{_SRT}.disaggregation.decode:DecodeRequest", _STEP, attributes=("is_rebootstrap", "req")),
    Use(
        f"{_SRT}.disaggregation.decode:DecodeTransferQueue._commit_transfer_to_req",
        _STEP,
        # a token in this place gets no logprob and counts as no reasoning token
        keys=("and decode_req.req.pd_rebootstrap_forced_output_id is not None", "and not replayed_boundary"),
    ),
    Use(
        f"{_SRT}.disaggregation.decode:DecodePreallocQueue",
        _STEP,
        keys=("max(len(req.output_ids) - 1, 0)",),
    ),
    Use(
        f"{_SRT}.disaggregation.decode_schedule_batch_mixin",
        _STEP,
        keys=("last_tokens.append(req.output_ids[-1])", "max(0, len(req.output_ids) - 1)"),
    ),
    Use(
        f"{_SRT}.managers.schedule_batch:ScheduleBatch",
        _LOGPROBS,
        attributes=(
            *("extend_input_logprob_token_ids", "extend_lens", "extend_logprob_start_lens", "prefix_lens", "reqs"),
        ),
    ),
    Use(
        f"{_SRT}.observability.req_time_stats:SchedulerReqTimeStats",
        _OUTPUT,
        attributes=("set_decode_prebuilt_finish_time",),
    ),
    Use(
        f"{_SRT}.managers.scheduler_components.batch_result_processor:SchedulerBatchResultProcessor"
        ".process_batch_result_prebuilt",
        _OUTPUT,
        keys=("for req in batch.reqs:", "stream_output(batch.reqs"),
    ),
    Use(
        f"{_SRT}.sampling.penaltylib.orchestrator:BatchedPenalizerOrchestrator",
        _PENALTIES,
        attributes=("penalizers", "reqs"),
    ),
    Use(
        f"{_SRT}.sampling.penaltylib.frequency_penalty:BatchedFrequencyPenalizer",
        _PENALTIES,
        attributes=("cumulated_frequency_penalties",),
    ),
    Use(
        f"{_SRT}.sampling.penaltylib.presence_penalty:BatchedPresencePenalizer",
        _PENALTIES,
        attributes=("cumulated_presence_penalties",),
    ),
    Use(
        f"{_SRT}.sampling.penaltylib.repetition_penalty:BatchedRepetitionPenalizer",
        _PENALTIES,
        attributes=("cumulated_repetition_penalties",),
    ),
    Use(
        f"{_SRT}.sampling.penaltylib.min_new_tokens:BatchedMinNewTokensPenalizer",
        _PENALTIES,
        attributes=("len_output_tokens",),
    ),
    Use(
        f"{_SRT}.managers.schedule_batch:ReqLogprob",
        _LOGPROBS,
        attributes=(
            *("input_token_logprobs_val", "input_token_logprobs_idx", "input_top_logprobs_val"),
            *("input_top_logprobs_idx", "input_token_ids_logprobs_val", "input_token_ids_logprobs_idx"),
            *("token_ids_logprob", "top_logprobs_num"),
        ),
    ),
    Use(
        f"{_SRT}.layers.logits_processor:LogitsProcessorOutput",
        _LOGPROBS,
        attributes=(
            *("input_token_logprobs", "input_top_logprobs_val", "input_top_logprobs_idx"),
            *("input_token_ids_logprobs_val", "input_token_ids_logprobs_idx"),
        ),
    ),
    Use(
        f"{_SRT}.managers.scheduler_components.logprob_result_processor:SchedulerLogprobResultProcessor",
        _LOGPROBS,
        attributes=("model_config", "_flatten_input_top_logprobs"),
    ),
)

"""Every name of SGLang that this folder uses, except the targets of its patches (`../engine_names.py`)."""

from __future__ import annotations

from sun_sglang.patches.engine_use import Use

_SRT = "sglang.srt"
_STREAM, _FORCED = "patches/replay/stream_tokens.py", "patches/replay/forced_tokens.py"
USES = (
    Use(
        f"{_SRT}.managers.tokenizer_manager:TokenizerManager",
        _STREAM,
        attributes=("incremental_streaming_output", "model_config", "server_args"),
    ),
    Use(
        f"{_SRT}.managers.tokenizer_manager:TokenizerManager._handle_batch_output",
        _STREAM,
        keys=('"output_ids": state.output_ids,', "output_token_ids = delta_output_ids"),
    ),
    Use(f"{_SRT}.configs.model_config:ModelConfig", _STREAM, attributes=("vocab_size",)),
    Use(f"{_SRT}.server_args:ServerArgs", _STREAM, attributes=("speculative_algorithm",)),
    Use(
        f"{_SRT}.managers.io_struct:GenerateReqInput",
        _STREAM,
        attributes=("extra_key", "sampling_params", "stream"),
    ),
    Use(f"{_SRT}.sampling.sampling_params:SamplingParams", _FORCED, attributes=("custom_params",)),
    Use(
        f"{_SRT}.managers.schedule_batch:Req",
        _FORCED,
        attributes=("origin_input_ids", "sampling_params"),
    ),
    Use(
        f"{_SRT}.managers.schedule_batch:ScheduleBatch",
        _FORCED,
        attributes=("reqs", "seq_lens_cpu"),
    ),
    Use(
        f"{_SRT}.managers.schedule_batch:ScheduleBatch.prepare_for_decode",
        _FORCED,
        # the length counts the token whose KV the pass writes
        keys=("self.seq_lens_cpu = self.seq_lens_cpu + 1",),
    ),
    Use(f"{_SRT}.model_executor.forward_batch_info:ForwardBatch", _FORCED, attributes=("sampling_info",)),
    Use(
        f"{_SRT}.layers.sampler:Sampler.forward",
        _FORCED,
        # every way to sample passes both: the logprobs are read first
        keys=(
            "self.output_logprob_processor.compute_logprobs(",
            "self._sync_token_ids_across_tp(batch_next_token_ids, sampling_info)",
        ),
    ),
)

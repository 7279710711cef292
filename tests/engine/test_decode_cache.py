"""The speculative algorithms and architectures that the installed SGLang combines with a decode cache."""

from __future__ import annotations

from sun_sglang.launch.planning.decode_cache.architectures import keeps_states, refuses_decode_cache
from sun_sglang.launch.planning.flags.speculative import speculative_with_cache
from tests.support.sglang_questions import SGLangQuestions


def test_architectures_by_what_sglang_does_with_their_decode_cache_are_its_own(
    ask_sglang: SGLangQuestions,
) -> None:
    told = ask_sglang("tests.engine.answers:decode_caches")
    refused = told["refused"]
    assert refused["DeepseekV4ForCausalLM"]
    assert not refused["GptOssForCausalLM"]
    assert {name for name in refused if refuses_decode_cache(name) != refused[name]} == set()
    assert {name for name in told["states"] if not keeps_states(name)} == set()
    assert not any(
        map(keeps_states, ("LlamaForCausalLM", "Qwen3ForCausalLM", "GptOssForCausalLM", "DeepseekV3ForCausalLM"))
    )


def test_speculative_algorithms_beside_the_decode_cache_are_told_apart_by_sglangs_own_checks(
    ask_sglang: SGLangQuestions,
) -> None:
    taken = set(ask_sglang(speculative_with_cache))
    assert "DSPARK" in taken
    assert not taken & {"NGRAM", "STANDALONE", "DFLASH", "FROZEN_KV_MTP"}
    assert ("EAGLE" in taken) == ("NEXTN" in taken), "one algorithm under two names"

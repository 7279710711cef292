"""The card of an emulated worker whose model is a checkpoint on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sun_sglang.emulator.identity import TokenLimits, emulated_identity, make_card
from sun_sglang.emulator.settings import parse_settings
from tests.support.emulator import flags


def test_make_card_of_a_module_by_another_trainer_names_its_decoder(write_checkpoint: Callable[..., Path]) -> None:
    record = {"base": "b", "decoder": "d", "first_token": "decode", "scheme": "half", "command": ["train"]}
    settings = parse_settings(flags("prefill", str(write_checkpoint("math", record=record))))
    card = make_card(settings, emulated_identity(settings), TokenLimits(context=100, kv=100))
    assert (card.tuned_for, card.first_token) == ("d", "decode")


def test_make_card_without_a_checkpoint_has_the_first_token_of_the_settings(
    write_checkpoint: Callable[..., Path],
) -> None:
    def first_token(model: str, *more: str) -> str:
        settings = parse_settings([*flags("decode", model), *more])
        return make_card(settings, emulated_identity(settings), TokenLimits(context=100, kv=100)).first_token

    assert first_token("none/math") == "prefill"
    assert first_token("none/math", "--sim-first-token", "decode") == "decode"
    assert first_token(str(write_checkpoint("math")), "--sim-first-token", "decode") == "prefill", "it was not tuned"

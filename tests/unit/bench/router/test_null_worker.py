from __future__ import annotations

import orjson

from sun_sglang.bench.router.null_worker import card, result
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.emulator.protocol.replies import Progress, ReplyBuilder
from sun_sglang.emulator.protocol.reply_shapes import SHAPES

RID = "0" * 32


def test_null_worker_event_has_the_size_that_earlier_reports_measured() -> None:
    assert len(result(RID, 512, 1, ended=False)) == 288


def test_null_worker_result_has_the_keys_of_the_newest_sglang() -> None:
    builder = ReplyBuilder(list(SHAPES.values())[-1])
    finish = {"type": "length", "length": 3}
    expected = builder.generate(Progress(RID, prompt_tokens=2, tokens=[1, 2, 3], text="", finish=finish))
    found = orjson.loads(result(RID, 2, 3, ended=True))
    assert found["meta_info"] == expected["meta_info"]
    assert found.keys() == expected.keys()


def test_null_worker_card_is_a_worker_card() -> None:
    prefill, decode = (WorkerCard.model_validate_json(card(role)) for role in ("prefill", "decode"))
    assert (prefill.role, decode.role) == ("prefill", "decode")
    assert decode.bootstrap_port is None

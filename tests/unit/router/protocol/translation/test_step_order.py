"""Calls, text and logprobs in the orders that SGLang's parsers send them, and in stranger ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sun_sglang.router.protocol.translation import step_order
from sun_sglang.router.protocol.translation.step_order import Arguments, Call, OrderedStep, StepOrder
from sun_sglang.router.protocol.translation.steps import CallPart, Finish, Reasoning, Step, Text, Usage
from sun_sglang.router.protocol.worker_replies import BadReplyError


def part(index: int, arguments: str = "", name: str = "", id_: str = "") -> CallPart:
    return CallPart(index, id_, name, arguments)


def ordered(*steps: Step, ends: bool = True) -> list[OrderedStep]:
    order = StepOrder()
    found = [later for step in steps for later in order.feed(step)]
    return [*found, *order.end()] if ends else found


A, B = Call("", "a"), Call("", "b")
WHOLE, HALF, REST = Arguments("{}"), Arguments('{"x":'), Arguments("1}")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param(
            [part(0, name="a"), part(0, "{}"), part(0, name="a"), part(0, "{}")], [A, WHOLE, A, WHOLE], id="one index"
        ),
        pytest.param([part(-1, "{}", "a"), part(-1, "{}", "b")], [A, WHOLE, B, WHOLE], id="unknown tool"),
        pytest.param(
            [part(3, '{"x":', "a"), part(0, "1}"), part(1, '{"x":', "b"), part(1, "1}")],
            [A, HALF, REST, B, HALF, REST],
            id="last arguments have another index",
        ),
        pytest.param(
            [part(1, "{}", "a"), part(0, '{"x":', "b"), part(1, "1}")],
            [A, WHOLE, B, HALF, REST],
            id="last arguments have the index of a complete call",
        ),
        pytest.param(
            [part(0, name="a"), Text("t"), part(0, "{}"), part(1, "{}", "b")],
            [A, WHOLE, Text("t"), B, WHOLE],
            id="text before the arguments",
        ),
        pytest.param(
            [part(0, '{"x":', "a"), Text("t"), Reasoning("r"), part(0, "1}"), Text("u")],
            [A, HALF, REST, Text("t"), Reasoning("r"), Text("u")],
            id="text and reasoning inside the arguments",
        ),
        pytest.param(
            [part(0, name="a"), part(1, name="b"), part(0, '{"x":'), part(1, "{}"), part(0, "1}")],
            [A, HALF, REST, B, WHOLE],
            id="calls that grow together",
        ),
        pytest.param(
            [part(0, name="a"), part(1, name="b"), part(1, '{"x":'), part(0, "{}"), Text("t"), part(1, "1}")],
            [A, WHOLE, B, HALF, REST, Text("t")],
            id="a later call grows first",
        ),
        pytest.param(
            [part(0, name="a"), Text("t"), part(1, "{}", "b")], [A, Text("t"), B, WHOLE], id="a call without arguments"
        ),
        pytest.param([part(0, '{"x":', "a"), Text("t")], [A, HALF, Text("t")], id="a call that was cut"),
        pytest.param([part(0, "3", "a"), Text("t")], [A, Arguments("3"), Text("t")], id="arguments of another type"),
        pytest.param([part(0, "3", "a"), Text("}")], [A, Arguments("3")], id="a bracket around a number"),
        pytest.param([part(0, "[3]", "a"), Text("}"), Text("]")], [A, Arguments("[3]")], id="brackets around a list"),
        pytest.param([part(0, "{}", "a"), Text("}")], [A, WHOLE, Text("}")], id="a bracket after an object"),
        pytest.param([part(0, "{}", "a"), part(0, "\n")], [A, WHOLE, Arguments("\n")], id="blanks after the end"),
        pytest.param([part(0, "{}", "a"), Text("t"), part(0, "\n")], [A, WHOLE, Text("t")], id="late blanks"),
        pytest.param([part(0), part(0, " "), part(0, "{}", "a")], [A, WHOLE], id="blanks before the name"),
    ],
)
def test_call_in_any_order_is_complete_before_the_next_item_begins(
    steps: Sequence[Step], expected: Sequence[OrderedStep]
) -> None:
    assert ordered(*steps) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param(
            [part(0, "{}", "a"), Text("\n"), part(0, "{}", "b"), Text("\n")], [A, WHOLE, B, WHOLE], id="calls"
        ),
        pytest.param(
            [Reasoning("r"), Text("\n"), Text("\n"), part(0, "{}", "a")], [Reasoning("r"), A, WHOLE], id="before a call"
        ),
        pytest.param([part(0, "{}", "a"), Text("\n"), Reasoning("r")], [A, WHOLE, Reasoning("r")], id="after a call"),
        pytest.param(
            [part(0, "{}", "a"), Text("\n", b"1"), Text("t", b"2")], [A, WHOLE, Text("\nt", b"1,2")], id="of a text"
        ),
        pytest.param([Text("t"), Text("\n"), part(0, "{}", "a")], [Text("t"), Text("\n"), A, WHOLE], id="in a text"),
        pytest.param([Text("\n"), Text(" ")], [Text("\n ")], id="the whole answer"),
        pytest.param([Text("\n"), Reasoning("r")], [Text("\n"), Reasoning("r")], id="beside reasoning"),
    ],
)
def test_text_of_blanks_is_dropped_only_beside_a_call(steps: Sequence[Step], expected: Sequence[OrderedStep]) -> None:
    assert ordered(*steps) == expected


def test_text_after_a_complete_call_is_passed_on_at_once() -> None:
    assert ordered(part(0, "{}", "a"), Text("t"), ends=False) == [A, WHOLE, Text("t")]


@pytest.mark.parametrize("steps", [[part(0, "{}")], [part(0, "{}", "a"), Text("t"), part(0, "1}")]])
def test_arguments_without_a_call_are_no_answer(steps: Sequence[Step]) -> None:
    with pytest.raises(BadReplyError, match="arguments of call 0"):
        ordered(*steps)


def test_id_of_an_earlier_call_is_left_out() -> None:
    """Kimi's ids end with the index, which was the place of the tool."""
    found = ordered(part(0, "{}", "a", "functions.a:0"), part(0, "{}", "a", "functions.a:0"), part(1, "{}", "b"))
    assert found == [Call("functions.a:0", "a"), WHOLE, A, WHOLE, B, WHOLE]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([Text("", b"1"), Text("t", b"2")], [Text("t", b"1,2")], id="held back by the detokenizer"),
        pytest.param([Text("t"), Text("", b"1"), Text("u")], [Text("t"), Text("u", b"1")], id="sent after their text"),
        pytest.param([Text("t", b"1"), Text("", b"2")], [Text("t", b"1"), Text("", b"2")], id="sent last"),
        pytest.param(
            [Text("t"), Text("", b"1"), part(0, "{}", "a")], [Text("t"), Text("", b"1"), A, WHOLE], id="before a call"
        ),
        pytest.param(
            [Text("", b"1"), Reasoning("r"), Text("", b"2"), Text("t", b"3")],
            [Reasoning("r"), Text("t", b"1,2,3")],
            id="of reasoning",
        ),
        pytest.param([part(0, "{}", "a"), Text("", b"1")], [A, WHOLE], id="of an answer without text"),
    ],
)
def test_logprobs_without_text_belong_to_the_next_text(steps: Sequence[Step], expected: Sequence[OrderedStep]) -> None:
    assert ordered(*steps) == expected


def test_end_and_usage_are_passed_on_at_once() -> None:
    end, usage = Finish("stop", None), Usage(1, 2, 0, 0)
    assert ordered(part(0, name="a"), end, usage, ends=False) == [A, end, usage]


@pytest.mark.parametrize(
    "step", [Text("t" * 100), Reasoning("t" * 100), Text("", b"1" * 400), part(0, "{" * 100), part(0, name="a" * 100)]
)
def test_answer_that_has_more_bytes_than_any_context_is_refused(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_order, "MAX_ANSWER_BYTES", 10_000)
    with pytest.raises(BadReplyError, match="over 10000 bytes"):
        ordered(part(0, name="a"), *[step] * 30)

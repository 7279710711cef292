"""The answer in a sentence, and the numbers beside it."""

from __future__ import annotations

from dataclasses import dataclass

from sun_sglang.bench.load.metrics.interval import Interval
from sun_sglang.bench.serving.report.study import quantities as q
from sun_sglang.bench.serving.report.study.point import Point, describe
from sun_sglang.bench.serving.report.study.study import Study, System


@dataclass(frozen=True)
class KeyNumber:
    """A large number.

    Attributes:
        text: the number.
        detail: its interval; empty for none.
        label: what it is.
    """

    text: str
    detail: str
    label: str


@dataclass(frozen=True)
class Headline:
    """The top of a page.

    Attributes:
        sentences: the answer.
        numbers: the numbers beside it.
        where: the load at which they hold.
    """

    sentences: tuple[str, ...]
    numbers: tuple[KeyNumber, ...]
    where: str


def headline(study: Study) -> Headline:
    """Return the answer at the study's headline point: of one system its numbers, of several the ratios."""
    point = study.headline
    first, *others = study.systems
    where = describe(point)
    compared = [other for other in others if study.ratio(other, point, q.THROUGHPUT.metric)]
    searched = [other for other in others if study.ratio(other, point, q.MAX_RATE.metric)]
    sentences = tuple(
        [_carries(study, first, other, point) for other in searched]
        + [_serves(study, first, other, point) for other in compared]
    )
    if sentences:
        return Headline(sentences, _ratios(study, [*searched, *compared][0], point), where)
    return Headline((_alone(study, first, point),), _numbers(study, first, point), where)


def _carries(study: Study, first: System, other: System, point: Point) -> str:
    ratio = study.ratio(other, point, q.MAX_RATE.metric)
    assert ratio is not None
    return f"{first.label} carries {_times(ratio)} the traffic of {other.label} within the objectives{_unsure(ratio)}."


def _serves(study: Study, first: System, other: System, point: Point) -> str:
    ratio = study.ratio(other, point, q.THROUGHPUT.metric)
    assert ratio is not None
    text = f"{first.label} serves {_times(ratio)} the output tokens of {other.label}"
    if (each := study.ratio(other, point, q.PER_DECODE_WORKER.metric)) is not None:
        text += f", {_times(each)} for each decode worker"
    if (tpot := study.ratio(other, point, q.TPOT.metric)) is not None:
        text += f", with a time per output token that is {_times(tpot)} as long"
    return f"{text}{_unsure(ratio)}."


def _times(ratio: Interval) -> str:
    ends = f" ({q.ratio_interval_text(ratio)})" if ratio.repetitions > 1 else ""
    return f"{q.number_text(ratio.value)} times{ends}"


def _unsure(ratio: Interval) -> str:
    if ratio.repetitions < 2:
        return "; one repetition, so no interval"
    if ratio.low <= 1 <= ratio.high:
        return "; the first interval contains 1, so the runs do not tell them apart"
    return ""


def _ratios(study: Study, other: System, point: Point) -> tuple[KeyNumber, ...]:
    first = study.systems[0]
    shown = (
        (q.MAX_RATE, "requests/s within the objectives"),
        (q.THROUGHPUT, "output tokens/s"),
        (q.PER_DECODE_WORKER, "output tokens/s per decode worker"),
        (q.TPOT, "time per output token"),
        (q.TTFT_P95, "time to first token, p95"),
    )
    return tuple(
        KeyNumber(q.ratio_text(ratio), q.ratio_interval_text(ratio), f"{label}: {first.label} / {other.label}")
        for quantity, label in shown
        if (ratio := study.ratio(other, point, quantity.metric)) is not None
    )


def _alone(study: Study, system: System, point: Point) -> str:
    made = study.number(system, point, q.THROUGHPUT.metric)
    best = study.number(system, point, q.MAX_RATE.metric)
    if best is not None:
        return f"{system.label} carries {_amount(best, q.MAX_RATE)} within the objectives."
    if made is None:
        return f"{system.label} has no valid run at this load."
    text = f"{system.label} serves {_amount(made, q.THROUGHPUT)}"
    if (tpot := study.number(system, point, q.TPOT.metric)) is not None:
        text += f", with {_amount(tpot, q.TPOT)} per output token"
    return f"{text}."


def _amount(number: Interval, quantity: q.Quantity) -> str:
    ends = q.interval_text(number, quantity)
    return f"{quantity.text(number.value)} {quantity.unit}" + (f" ({ends})" if ends else "")


def _numbers(study: Study, system: System, point: Point) -> tuple[KeyNumber, ...]:
    shown = (q.MAX_RATE, q.THROUGHPUT, q.PER_DECODE_WORKER, q.INTERACTIVITY, q.TPOT, q.TTFT_P95)
    return tuple(
        KeyNumber(quantity.text(found.value), q.interval_text(found, quantity), quantity.title)
        for quantity in shown
        if (found := study.number(system, point, quantity.metric)) is not None
    )

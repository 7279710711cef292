"""The steps of an answer in an order that other APIs can stream: an item is complete before the next begins. Pure.

A chat completion allows more. Workers number calls by the place of their tool, so two calls have one index and another
index than their last arguments; a call may begin, or text arrive, before the arguments of the last call are complete.
So a name begins a call, arguments belong to a call that lacks some, and everything else waits until these are complete.
Some parsers pass on the line breaks between calls: a text of blanks beside a call is dropped, as in whole answers. So
are the brackets around a call whose arguments are no object, which SGLang sends as text if a call is required.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sun_sglang.router.protocol.translation.object_end import ObjectEnd
from sun_sglang.router.protocol.translation.steps import CallPart, Finish, Reasoning, Step, Text, Usage, read_steps
from sun_sglang.router.protocol.worker_replies import BadReplyError

# An answer is at most as long as a model's context: a million tokens of text have 20 MB, and 42,000 tokens with 20
# alternatives each have this. It bounds the memory for one answer.
MAX_ANSWER_BYTES = 64 << 20
# memory of an item without its text, and of a held step; measured
_ITEM_BYTES, _HELD_BYTES = 2048, 256


class Call(NamedTuple):
    """The beginning of a call.

    Attributes:
        id: the worker's id of the call; empty if it sent none, or the same as for an earlier call.
        name: the function.
    """

    id: str
    name: str


class Arguments(NamedTuple):
    """More of the arguments' JSON of the call that began last."""

    text: str


OrderedStep = Reasoning | Text | Call | Arguments | Finish | Usage


class _GrowingCall:
    """A call whose arguments may follow.

    Args:
        first: its beginning.

    Attributes:
        first: see above.
        end: watches the arguments.
        start: the first character of its arguments that is no blank; empty until it has arrived.
        waiting: arguments that wait with it.
        is_closed: another item has begun after it.
    """

    def __init__(self, first: Call) -> None:
        self.first = first
        self.end = ObjectEnd()
        self.start = ""
        self.waiting: list[str] = []
        self.is_closed = False

    @property
    def lacks_arguments(self) -> bool:
        """Whether its arguments are incomplete and may follow."""
        return not (self.is_closed or self.end.found)


class StepOrder:
    """Orders the steps of one answer."""

    def __init__(self) -> None:
        self._open: _GrowingCall | None = None
        self._last: _GrowingCall | None = None
        self._of_number: dict[int, _GrowingCall] = {}
        self._ids: set[str] = set()
        self._held: deque[Reasoning | Text | _GrowingCall] = deque()
        self._in_text = False
        self._blanks: list[str] = []
        self._logprobs: list[bytes] = []
        self._size = 0

    def feed(self, step: Step) -> Iterator[OrderedStep]:
        """Yield the steps that may follow now.

        Raises:
            BadReplyError: arguments belong to no call, or the answer has over `MAX_ANSWER_BYTES`.
        """
        match step:
            case CallPart():
                yield from self._add_call(step)
            case Reasoning(text) | Text(text):
                # a character takes up to four bytes
                self._count(4 * len(text) + (len(step.logprobs) if isinstance(step, Text) else 0))
                if self._waits():
                    self._hold(step)
                else:
                    yield from self._release(step)
            case Finish() | Usage():
                yield step

    def end(self) -> Iterator[OrderedStep]:
        """Yield what has waited."""
        while self._held:
            yield from self._release(self._held.popleft())
        yield from self._end_text()

    def _add_call(self, part: CallPart) -> Iterator[OrderedStep]:
        self._count(len(part.arguments) * 4)
        if part.name:
            yield from self._add_new(part)
        if not part.arguments:
            return
        call = self._call_of(part)
        if call is None:
            return
        call.end.feed(part.arguments)
        call.start = call.start or part.arguments.lstrip()[:1]
        if call is not self._open:
            self._count(_HELD_BYTES)
            call.waiting.append(part.arguments)
            return
        yield Arguments(part.arguments)
        while self._held and not self._waits():
            yield from self._release(self._held.popleft())

    def _add_new(self, part: CallPart) -> Iterator[OrderedStep]:
        self._count(_ITEM_BYTES + 4 * len(part.name) + 4 * len(part.id))
        call = _GrowingCall(Call("" if part.id in self._ids else part.id, part.name))
        self._ids.add(part.id)
        self._of_number[part.number] = self._last = call
        if self._waits():
            self._hold(call)
        else:
            yield from self._release(call)

    def _call_of(self, part: CallPart) -> _GrowingCall | None:
        """Return the call to which arguments belong; None for blanks after its end."""
        same = self._of_number.get(part.number)
        for call in (same, self._last):
            if call is not None and call.lacks_arguments:
                return call
        if same is not None and not same.is_closed:
            return same
        if part.arguments.isspace():
            return None
        raise BadReplyError(f"the decode worker sent arguments of call {part.number} before its name or after its end")

    def _waits(self) -> bool:
        """Return whether the call that began last lacks arguments, so that no other item may begin."""
        return self._open is not None and self._open.lacks_arguments

    def _hold(self, step: Reasoning | Text | _GrowingCall) -> None:
        self._count(_HELD_BYTES)
        self._held.append(step)

    def _release(self, step: Reasoning | Text | _GrowingCall) -> Iterator[OrderedStep]:
        if isinstance(step, _GrowingCall):
            self._blanks.clear()
            yield from self._end_text()
            self._close(step)
            yield step.first
            if step.waiting:
                arguments = "".join(step.waiting)
                step.waiting.clear()
                yield Arguments(arguments)
        elif isinstance(step, Reasoning):
            yield from self._end_text()
            self._close(None)
            yield step
        elif self._in_text and step.text:
            yield Text(step.text, self._take_logprobs(step.logprobs))
        elif self._is_around_call(step.text):
            self._logprobs += filter(None, [step.logprobs])
        elif not step.text or step.text.isspace():
            self._blanks += filter(None, [step.text])
            self._logprobs += filter(None, [step.logprobs])
        else:
            yield self._begin_text(step)

    def _is_around_call(self, text: str) -> bool:
        """Return whether a text is the brackets around the call before it, whose arguments are no object."""
        return self._open is not None and self._open.start not in ("", "{") and not text.strip("}], \n")

    def _begin_text(self, step: Text) -> Text:
        self._count(_ITEM_BYTES)
        self._close(None)
        self._in_text = True
        text = "".join([*self._blanks, step.text])
        self._blanks.clear()
        return Text(text, self._take_logprobs(step.logprobs))

    def _close(self, next_call: _GrowingCall | None) -> None:
        if self._open is not None:
            self._open.is_closed = True
        self._open = next_call

    def _end_text(self) -> Iterator[OrderedStep]:
        """Yield what belongs to the text before another item: blanks, and logprobs of tokens without text."""
        if self._blanks and self._open is None:
            yield self._begin_text(Text(""))
        if self._in_text and self._logprobs:
            yield Text("", self._take_logprobs(b""))
        self._in_text = False
        self._blanks.clear()

    def _take_logprobs(self, more: bytes) -> bytes:
        taken = b",".join(filter(None, [*self._logprobs, more]))
        self._logprobs.clear()
        return taken

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > MAX_ANSWER_BYTES:
            raise BadReplyError(f"the decode worker sent an answer of over {MAX_ANSWER_BYTES} bytes")


def ordered_steps(answer: Mapping[str, Any]) -> Iterator[OrderedStep]:
    """Yield the steps of a whole chat completion in order.

    Raises:
        BadReplyError: as `StepOrder.feed`.
    """
    order = StepOrder()
    for step in read_steps(answer):
        yield from order.feed(step)
    yield from order.end()

"""The stream of one answer, over all workers that have made a part of it."""

from __future__ import annotations

import re
from array import array
from typing import Any

import orjson

from sun_sglang.contracts.replay import TOKENS_COMMENT
from sun_sglang.router.protocol.replay.channels import ReplayDiffersError
from sun_sglang.router.protocol.replay.cumulative_answer import CumulativeAnswer
from sun_sglang.router.protocol.replay.delta_answer import DeltaAnswer
from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.protocol.sse import DONE_DATA, EventFramer, EventKind, event_data, event_kind, frame
from sun_sglang.router.protocol.worker_replies import BadReplyError, parse_json, parse_result

_COMMENT_SIZE = len(TOKENS_COMMENT)
# A few KB of events that wait until they are noted. All of them are noted before anything depends on them.
_MOST_UNREAD = 16
_LINE_END = re.compile(rb"\r\n|\r|\n")


class AnswerStream:
    """Takes the comment lines with tokens off a worker's stream, and keeps what a repetition needs.

    It keeps 4 bytes for each token, and the length and checksum of each text; of /generate the last event. After
    `repeat` it drops what was shown, and gives the rest the ids of the first stream.

    Args:
        endpoint: whose format the events have.
        rid: the request id of the first stream.
        most: the most tokens that are kept.

    Attributes:
        done: the stream ended with `[DONE]`.
        fault: why the answer cannot be repeated; empty if it can.
    """

    def __init__(self, endpoint: Endpoint, rid: str, most: int) -> None:
        self._tokens = array("i")
        self.done = False
        self.fault = ""
        self._answer = CumulativeAnswer() if endpoint is Endpoint.GENERATE else DeltaAnswer()
        self._rid = rid
        self._most = most
        self._created: int | None = None
        # of the first prefill leg, as /v1 endpoints report it; empty if it is unknown
        self._first_usage: dict[str, Any] | None = None
        self._framer = EventFramer()
        # the next chunk begins with an event, and nothing of it was shown
        self._is_whole = True
        self._passes_all = False
        # single events that were passed on and not noted yet, and the tokens that were reported before them
        self._unread: list[bytes] = []
        self._unread_lines: list[bytes] = []
        self._notes_late = isinstance(self._answer, DeltaAnswer)
        # tokens that were reported before and have not been repeated yet
        self._left = 0
        # names of this stream's worker, and those of the first one
        self._names: list[tuple[bytes, bytes]] = []

    @property
    def tokens(self) -> array[int]:
        """The output tokens that workers have reported; none once the answer cannot be repeated."""
        self._note_unread()
        return self._tokens

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes for the client that a chunk yields: whole events; may be empty.

        Raises:
            ReplayDiffersError: the stream repeats another answer than that which was shown.
        """
        if self._is_whole:
            shown, line = chunk, 0
            if chunk.startswith(TOKENS_COMMENT):
                line = chunk.find(b"\n")
                shown = chunk[line + 1 :]
            # JSON has no line break inside, so this is one event, and not `[DONE]`
            if shown.startswith(b"data: {") and shown.endswith(b"}\n\n") and shown.find(b"\n") == len(shown) - 2:
                if self._notes_late:
                    self._unread.append(shown)
                    if line:
                        self._unread_lines.append(chunk[_COMMENT_SIZE:line])
                    if len(self._unread) == _MOST_UNREAD:
                        self._note_unread()
                    return shown
                if self._names:
                    shown = self._rename(shown)
                if self._answer.note_known(shown):
                    if line:
                        self._hear(chunk[_COMMENT_SIZE:line])
                    return shown
        self._note_unread()
        if self._passes_all:
            return chunk
        passed: list[bytes] = []
        try:
            # the events before one that is too long stay in the list
            passed.extend(map(self._take, self._framer.feed(chunk)))
        except BadReplyError:
            # the event is too long, and the reader of these bytes refuses it
            self._give_up("an event is too long")
            self._passes_all = True
            passed.append(bytes(self._framer.rest))
        self._is_whole = not self._answer.behind and not self._framer.rest
        return b"".join(passed)

    def repeat(self, rid: str, prefill: bytes | None) -> None:
        """Begin with a stream that repeats the answer from its start.

        The prompt is then in the prefill worker's cache, and the client is told what it was at first.

        Args:
            rid: the request id of that stream.
            prefill: the reply of the prefill leg of the stream before; None if it is unknown.
        """
        self._note_unread()
        assert not self.fault, "such an answer is not repeated"
        self._answer.rewind()
        self._framer = EventFramer()
        if self._first_usage is None and prefill is not None:
            reply = parse_json(prefill)
            usage = reply.get("usage") if isinstance(reply, dict) else None
            self._first_usage = usage if isinstance(usage, dict) else {}
        self._left = len(self._tokens)
        self._names = [(orjson.dumps(rid), orjson.dumps(self._rid))]
        # the first event tells which values of this stream are replaced
        self._is_whole = self._notes_late = False

    def fault_now(self) -> str:
        """Return why the answer cannot be repeated; empty if it can."""
        self._note_unread()
        if not self.fault and not self._tokens and not self._answer.is_empty:
            self._give_up("its worker did not report the tokens of the answer")
        if not self.fault:
            self._give_up(self._answer.fault)
        return self.fault

    def abort_event(self) -> bytes:
        """Return the event that ends the answer as an abort does. The answer must have no fault."""
        return self._answer.abort_event()

    def _note_unread(self) -> None:
        """Note the events that wait for it: many at once cost less than each after other work of the router."""
        if not self._unread:
            return
        events, self._unread = self._unread, []
        lines, self._unread_lines = self._unread_lines, []
        if lines:
            self._hear(b",".join(lines))
        if self.fault:
            return
        answer = self._answer
        assert isinstance(answer, DeltaAnswer), "the last event of /generate is noted at once: it repeats the others"
        at = answer.note_run(events)
        while at < len(events):
            self._note(events[at], event_data(events[at]))
            at += 1 + answer.note_run(events[at + 1 :])

    def _take(self, event: bytes) -> bytes:
        while event.startswith(TOKENS_COMMENT):
            end = _LINE_END.search(event)
            assert end is not None, "an event ends with a blank line"
            self._hear(event[_COMMENT_SIZE : end.start()])
            event = event[end.end() :]
        event = self._rename(event)
        data = event_data(event)
        if not data:
            return event
        if data == DONE_DATA:
            if self._answer.behind:
                raise ReplayDiffersError("the repeated answer ends earlier")
            self.done = True
            return event
        if not self._answer.behind:
            return event if self.fault or self._answer.note_known(event) else self._note(event, data)
        return b"" if self._is_surely_old(event) else self._cut(event, data)

    def _note(self, event: bytes, data: bytes) -> bytes:
        try:
            result = parse_result(data)
        except BadReplyError as e:
            # the reader of the event reports it
            self._give_up(str(e))
            return event
        event = self._use_first_values(event, result)
        if event_kind(result) is not EventKind.ERROR:
            try:
                self._answer.note(event, result)
            except ReplayDiffersError as malformed:
                # nothing is repeated here, and the client receives what its worker sent
                self._give_up(f"its worker sent an event that cannot be read: {malformed}")
        return event

    def _cut(self, event: bytes, data: bytes) -> bytes:
        try:
            result = parse_result(data)
        except BadReplyError:
            return event
        event, kind = self._use_first_values(event, result), event_kind(result)
        if kind is EventKind.ERROR:
            return event
        return self._answer.cut(event, result, aborted=kind is EventKind.ABORT)

    def _is_surely_old(self, event: bytes) -> bool:
        """Return whether an event shows no new token, by the tokens that its worker has reported."""
        answer = self._answer
        if self.fault or not isinstance(answer, CumulativeAnswer):
            return False
        return not answer.needs_reading(event, len(self._tokens) - self._left)

    def _hear(self, line: bytes) -> None:
        """Keep the tokens of a comment line, or compare them with those that they repeat."""
        if self.fault:
            return
        try:
            if self._left or b"," in line:
                self._hear_all(array("i", map(int, line.split(b","))))
            else:
                self._tokens.append(int(line))
        except (ValueError, OverflowError):
            self._give_up("its worker reported tokens that cannot be read")
        if len(self._tokens) > self._most:
            self._give_up(f"it has more than {self._most} tokens (router.failover_tokens)")

    def _hear_all(self, tokens: array[int]) -> None:
        if self._left:
            start, count = len(self._tokens) - self._left, min(self._left, len(tokens))
            if self._tokens[start : start + count] != tokens[:count]:
                raise ReplayDiffersError("the repeated answer has other tokens")
            self._left -= count
            tokens = tokens[count:]
        self._tokens.extend(tokens)

    def _use_first_values(self, event: bytes, result: dict[str, Any]) -> bytes:
        """Return an event of a repeated answer, and change its data, with the values that hold for the first stream.

        SGLang stamps each stream with a time, and counts the prompt tokens that were in a cache.
        """
        if isinstance(created := result.get("created"), int):
            if self._created is None:
                self._created = created
            elif created != self._created and self._names:
                result["created"] = self._created
                self._add_names("created", created, self._created)
        if not self._names:
            return event
        if isinstance(self._answer, CumulativeAnswer):
            for name, first in self._answer.first_counts.items():
                meta = result.get("meta_info") or {}
                if name in meta and meta[name] != first:
                    self._add_names(name, meta[name], first)
                    meta[name] = first
        elif (usage := result.get("usage")) and usage.get("prompt_tokens_details") and self._first_usage:
            details = self._first_usage.get("prompt_tokens_details")
            if details != usage["prompt_tokens_details"]:
                usage["prompt_tokens_details"] = details
                if details is None and not self._answer.is_chat:
                    # a usage event of /v1/completions leaves out null
                    del usage["prompt_tokens_details"]
                return frame(orjson.dumps(result))
        return self._rename(event)

    def _add_names(self, name: str, theirs: object, first: object) -> None:
        """Replace a value in all events from now on. No text that a model generates contains a quote as it stands.

        The latest value alone is kept: some versions of SGLang stamp each event with its own time.
        """
        key = b'"%b":' % name.encode()
        self._names = [pair for pair in self._names if not pair[0].startswith(key)]
        of_them, of_first = orjson.dumps(theirs), orjson.dumps(first)
        self._names += [(key + of_them + end, key + of_first + end) for end in (b",", b"}")]

    def _rename(self, event: bytes) -> bytes:
        for theirs, first in self._names:
            event = event.replace(theirs, first)
        return event

    def _give_up(self, why: str) -> None:
        self.fault = self.fault or why
        if not self.fault:
            return
        self._tokens = array("i")
        self._left = 0

"""An answer whose events repeat all of it: /generate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from sun_sglang.router.protocol.replay.channels import ReplayDiffersError
from sun_sglang.router.protocol.sse import event_data, frame
from sun_sglang.router.protocol.worker_replies import count_at, parse_result


class CumulativeAnswer:
    """The last event that was shown. It is kept as it is, and parsed only if the answer is repeated."""

    def __init__(self) -> None:
        self._last = b""
        self._sent: dict[str, Any] = {}
        self.behind = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing that a token makes was shown."""
        return not self._last

    @property
    def is_incremental(self) -> bool:
        """Whether the events hold new tokens only (SGLang's `incremental_streaming_output`): no text can be compared.

        The answer must have been rewound.
        """
        ids, meta = self._sent.get("output_ids"), self._sent.get("meta_info") or {}
        return not isinstance(ids, list) or len(ids) < count_at(meta, "completion_tokens")

    @property
    def tokens(self) -> int:
        """How many tokens were shown. The answer must have been rewound."""
        return len(self._sent.get("output_ids") or ())

    def rewind(self) -> None:
        """Expect the answer again from its start.

        Raises:
            BadReplyError: the last event is no part of an answer.
        """
        self._sent = parse_result(event_data(self._last)) if self._last else {}
        self.behind = bool(self._sent)

    def note_known(self, event: bytes) -> bool:
        """Note one event with a result. Return False for bytes that hold anything else."""
        is_one = event.startswith(b"data: {") and event.find(b"\n\n") == len(event) - 2
        if not is_one or b'"error"' in event or b'"abort"' in event:
            return False
        self._last = event
        return True

    def note(self, event: bytes, result: dict[str, Any]) -> None:
        """Note an event that is shown. `result` is its data."""
        if result.get("meta_info") is not None:
            self._last = event

    def needs_reading(self, event: bytes, made: int) -> bool:
        """Return whether an event of the repeated answer may show more than was shown.

        Args:
            event: the event.
            made: how many tokens the worker has made, as it reported them. An event shows no other ones.
        """
        return made >= self.tokens or b'"abort"' in event or b'"error"' in event

    def cut(self, event: bytes, result: dict[str, Any], *, aborted: bool = False) -> bytes:
        """Return an event if it shows more than was shown; else empty.

        Args:
            event: the event.
            result: its data.
            aborted: it reports an abort. The client then receives all that was shown, as aborted.

        Raises:
            ReplayDiffersError: the answer is another one than that which was shown.
        """
        sent, sent_meta, meta = self._sent, self._sent["meta_info"], result.get("meta_info") or {}
        finish = meta.get("finish_reason")
        if aborted:
            self.behind = False
            return frame(orjson.dumps({**sent, "meta_info": {**sent_meta, "finish_reason": finish}}))
        ids, old_ids = result.get("output_ids"), sent["output_ids"]
        text, old_text = str(result.get("text") or ""), str(sent.get("text") or "")
        if not isinstance(ids, list) or len(ids) < count_at(meta, "completion_tokens"):
            raise ReplayDiffersError("the other worker streams increments (`incremental_streaming_output`)")
        if _differ(ids, old_ids) or (finish is not None and len(ids) < len(old_ids)):
            raise ReplayDiffersError("the repeated answer has other tokens")
        if _differ(text, old_text):
            raise ReplayDiffersError("the repeated text is another one")
        self.behind = len(ids) < len(old_ids) or (finish is None and len(text) < len(old_text))
        ends = finish is not None and sent_meta.get("finish_reason") is None
        if self.behind or not (ends or len(ids) > len(old_ids) or len(text) > len(old_text)):
            return b""
        self._last = event
        return event

    def abort_event(self) -> bytes:
        """Return the event that ends the answer as an abort does. The answer must have been rewound."""
        reason = {"type": "abort", "message": "the request was aborted"}
        return frame(orjson.dumps({**self._sent, "meta_info": {**self._sent["meta_info"], "finish_reason": reason}}))


def _differ(one: Sequence[object], other: Sequence[object]) -> bool:
    """Return whether none of two sequences begins with the other."""
    both = min(len(one), len(other))
    return one[:both] != other[:both]

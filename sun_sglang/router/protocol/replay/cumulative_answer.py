"""An answer whose events repeat all of it: /generate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from sun_sglang.router.protocol.replay.channels import ReplayDiffersError
from sun_sglang.router.protocol.sse import event_data, frame
from sun_sglang.router.protocol.worker_replies import BadReplyError, count_at, parse_result

_CACHED = ("cached_tokens", "cached_tokens_details")


class CumulativeAnswer:
    """The last event that was shown. It is kept as it is, and parsed only if the answer is repeated.

    Attributes:
        behind: a part of what was shown has not come again.
        first_counts: the counts of cached prompt tokens in what was shown.
    """

    def __init__(self) -> None:
        self.first_counts: dict[str, Any] = {}
        self._last = b""
        self._sent: dict[str, Any] = {}
        self.behind = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing was shown."""
        return not self._last

    @property
    def fault(self) -> str:
        """Why the answer cannot be repeated; empty if it can."""
        try:
            sent = self._read_last()
        except BadReplyError as e:
            return str(e)
        if self._last and len(sent["output_ids"]) < count_at(sent["meta_info"], "completion_tokens"):
            return "its worker streams increments (`incremental_streaming_output`)"
        return ""

    @property
    def tokens(self) -> int:
        """How many tokens were shown. The answer must have been rewound."""
        return len(self._sent.get("output_ids") or ())

    def rewind(self) -> None:
        """Expect the answer, which has no fault, again from its start."""
        self._sent = self._read_last()
        meta = self._sent.get("meta_info") or {}
        self.first_counts = {name: meta[name] for name in _CACHED if name in meta}
        self.behind = bool(self._last)

    def note_known(self, event: bytes) -> bool:
        """Note one event that is shown. It may report an error, after which the stream ends."""
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
        """Return the event that ends the answer as an abort does."""
        reason = {"type": "abort", "message": "the request was aborted"}
        sent = self._read_last()
        meta = {**sent.get("meta_info", {}), "finish_reason": reason}
        return frame(orjson.dumps({"text": "", "output_ids": [], **sent, "meta_info": meta}))

    def _read_last(self) -> dict[str, Any]:
        """Return the data of the last event; nothing if there is none.

        Raises:
            BadReplyError: it is no result.
        """
        if not self._last:
            return {}
        sent = parse_result(event_data(self._last))
        if not isinstance(sent.get("meta_info"), dict) or not isinstance(sent.get("output_ids"), list):
            raise BadReplyError("its last event is no result with tokens")
        return sent


def _differ(one: Sequence[object], other: Sequence[object]) -> bool:
    """Return whether none of two sequences begins with the other."""
    both = min(len(one), len(other))
    return one[:both] != other[:both]

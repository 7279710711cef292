"""An answer whose events continue each other: /v1/completions and /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from sun_sglang.router.protocol.replay.channels import EntryChannel, ReplayDiffersError, TextChannel
from sun_sglang.router.protocol.sse import frame

# no event begins with it
_NO_TEMPLATE = b"\0"
# the key before each kind of text, as it stands in an event
_KEYS = {"text": b'"text":"', "content": b'"content":"', "reasoning_content": b'"reasoning_content":"'}
_ARGUMENTS = b'"arguments":"'
# parts of a choice that are read in other places, or that are no part of the answer
_NO_PARTS = frozenset(("index", "text", "delta", "logprobs", "finish_reason", "matched_stop", "token_ids"))


class DeltaAnswer:
    """The texts and the lists of an answer that were shown.

    Nearly every event equals the one before it but for one text. Such an event is noted without parsing it: it begins
    and ends as the last parsed one, and between lies the inside of one JSON string.

    Attributes:
        is_chat: the events are those of a chat.
    """

    def __init__(self) -> None:
        self._texts: dict[str, TextChannel] = {}
        self._entries: dict[str, EntryChannel] = {}
        self._names: dict[str, Any] = {}
        self.is_chat = False
        self._prefix, self._suffix, self._channel = _NO_TEMPLATE, b"", TextChannel("")
        # what `cut` did with the last event
        self._kept: list[tuple[str, bytes, str]] = []
        self._kept_entries = False

    @property
    def fault(self) -> str:
        """Why the answer cannot be repeated: nothing that is known of it prevents that."""
        return ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing that a token makes was shown."""
        return not (self._texts.keys() - {"role"} or self._entries)

    @property
    def behind(self) -> bool:
        """Whether a part of what was shown has not come again."""
        return any(channel.left for channel in self._channels())

    def rewind(self) -> None:
        """Expect the answer again from its start."""
        self._prefix, self._suffix = _NO_TEMPLATE, b""
        for channel in self._channels():
            channel.rewind()

    def note_known(self, event: bytes) -> bool:
        """Note an event that differs from the last parsed one in one text. Return False for any other event."""
        return self.note_run([event]) == 1

    def note_run(self, events: Sequence[bytes]) -> int:
        """Note events that differ from the last parsed one in one text, up to the first that does not.

        Args:
            events: each a single event.

        Returns:
            How many were noted.
        """
        prefix, suffix = self._prefix, self._suffix
        begin, end = len(prefix), -len(suffix)
        texts: list[bytes] = []
        for event in events:
            if not (event.startswith(prefix) and event.endswith(suffix)) or len(event) < begin - end:
                break
            texts.append(event[begin:end])
        text = b"".join(texts)
        if b'"' not in text and b"\\" not in text:
            self._channel.add(text)
            return len(texts)
        for place, text in enumerate(texts):
            if b"\\" in text:
                try:
                    text = orjson.loads(b'"%b"' % text).encode()
                except orjson.JSONDecodeError:
                    return place
            elif b'"' in text:
                return place
            self._channel.add(text)
        return len(texts)

    def note(self, event: bytes, result: dict[str, Any]) -> None:
        """Note an event that is shown. `result` is its data."""
        self._cut(result, aborted=False)
        # the next event may differ from this one in one text
        if len(self._kept) == 1 and not self._kept_entries and result.get("usage") is None:
            self._use_template(event, *self._kept[0])

    def cut(self, event: bytes, result: dict[str, Any], *, aborted: bool = False) -> bytes:
        """Return the part of an event that was not shown before, and note it; empty if there is none.

        Args:
            event: the event.
            result: its data.
            aborted: it reports an abort, and may come before all that was shown has come again.

        Raises:
            ReplayDiffersError: the answer is another one than that which was shown.
        """
        shown = self._cut(result, aborted=aborted)
        if shown is None:
            return b""
        return event if shown == result else frame(orjson.dumps(shown))

    def abort_event(self) -> bytes:
        """Return the event that ends the answer as an abort does."""
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"reasoning_content": None}} if self.is_chat else {"text": ""}
        choice |= {"logprobs": None, "finish_reason": "abort", "matched_stop": None}
        return frame(orjson.dumps({**self._names, "choices": [choice]}))

    def _cut(self, result: dict[str, Any], *, aborted: bool) -> dict[str, Any] | None:
        self._kept, self._kept_entries = [], False
        if not self._names:
            self._names = {name: result[name] for name in ("id", "object", "created", "model") if name in result}
        if not result.get("choices"):
            return result if self._is_new("an event without choices") else None
        choice, *others = result["choices"]
        shown = dict(choice)
        if isinstance(text := choice.get("text"), str):
            shown["text"] = self._cut_text("text", text, _KEYS["text"])
        if isinstance(delta := choice.get("delta"), dict):
            self.is_chat = True
            shown["delta"] = self._cut_delta(delta)
        if isinstance(logprobs := choice.get("logprobs"), dict):
            shown["logprobs"] = self._cut_logprobs(logprobs)
        if isinstance(ids := choice.get("token_ids"), list):
            shown["token_ids"] = ids[self._count_old("token_ids", [orjson.dumps(token) for token in ids]) :]
        for name in choice.keys() - _NO_PARTS:
            if choice[name] is not None and not self._is_new(name):
                shown[name] = None
        if choice.get("finish_reason") is not None:
            if not aborted:
                self._require_end(choice.get("matched_stop"))
            if not self._is_new("finish_reason"):
                shown["finish_reason"] = shown["matched_stop"] = None
        return {**result, "choices": [shown, *others]} if self._kept or self._kept_entries else None

    def _channels(self) -> Iterator[TextChannel | EntryChannel]:
        yield from self._texts.values()
        yield from self._entries.values()

    def _cut_delta(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        shown = dict(delta)
        for name, value in delta.items():
            if name == "tool_calls" and isinstance(value, list):
                shown[name] = self._cut_calls(value)
            elif isinstance(value, str):
                # a name without a key has no template: a role comes once
                shown[name] = self._cut_text(name, value, _KEYS.get(name, b""))
            elif value is not None and not self._is_new(name):
                shown[name] = None
            if not shown[name] and shown[name] is not delta[name]:
                if name == "reasoning_content":
                    shown[name] = None
                else:
                    del shown[name]
        return shown

    def _cut_calls(self, calls: list[Any]) -> list[dict[str, Any]]:
        """Return the new parts of tool calls. The id of a call is random, so the client keeps the first one."""
        shown = []
        for call in calls:
            if not isinstance(call, dict):
                raise ReplayDiffersError("a tool call is no object")
            place, function = call.get("index"), call.get("function")
            cut = dict(call)
            is_new = bool(call.get("id")) and self._is_new(f"id of tool call {place}")
            if not is_new:
                cut["id"] = None
            if isinstance(function, dict):
                cut["function"] = parts = dict(function)
                for name in ("name", "arguments"):
                    if isinstance(text := function.get(name), str):
                        key = _ARGUMENTS if name == "arguments" else b""
                        rest = self._cut_text(f"{name} of tool call {place}", text, key)
                        is_new = is_new or bool(rest)
                        parts[name] = rest or (None if name == "name" else "")
            if is_new:
                shown.append(cut)
        return shown

    def _cut_logprobs(self, logprobs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the new log probabilities: lists of one length, or a chat's list of objects.

        Only the tokens are compared: another batch may compute other last bits of a value.
        """
        if isinstance(tokens := logprobs.get("tokens"), list):
            old = self._count_old("logprobs", [orjson.dumps(token) for token in tokens])
            cut = {name: column[old:] if isinstance(column, list) else column for name, column in logprobs.items()}
            return cut if old < len(tokens) or not old else None
        if isinstance(content := logprobs.get("content"), list):
            keys = [orjson.dumps(entry.get("token")) if isinstance(entry, dict) else b"" for entry in content]
            old = self._count_old("logprobs", keys)
            return {**logprobs, "content": content[old:]} if old < len(content) or not old else None
        return dict(logprobs)

    def _cut_text(self, name: str, text: str, key: bytes) -> str:
        if not text:
            return text
        channel = self._texts.get(name)
        if channel is None:
            channel = self._texts[name] = TextChannel(name)
        if not channel.left:
            channel.add(text.encode())
            rest = text
        else:
            rest = channel.cut(text.encode()).decode()
        if rest:
            self._kept.append((name, key, rest))
        return rest

    def _count_old(self, name: str, keys: list[bytes]) -> int:
        if not keys:
            return 0
        channel = self._entries.get(name)
        if channel is None:
            channel = self._entries[name] = EntryChannel(name)
        old = channel.cut(keys)
        self._kept_entries = self._kept_entries or old < len(keys)
        return old

    def _is_new(self, name: str) -> bool:
        """Note a part that comes once, or whose value may be another one. Return whether it was not shown before."""
        return self._count_old(name, [b""]) == 0

    def _require_end(self, matched: object) -> None:
        """Require that the texts which were shown have come again before the answer ends.

        A stop string that spans several tokens may have been shown in part: SGLang takes it off the last event alone.
        The tokens, which are compared too, are then the same.
        """
        spare = len(matched.encode()) if isinstance(matched, str) else 0
        for channel in self._texts.values():
            if channel.left > spare:
                raise ReplayDiffersError("the repeated answer ends earlier")
            channel.left = 0

    def _use_template(self, event: bytes, name: str, key: bytes, text: str) -> None:
        start = event.find(key) + len(key) if key else 0
        inside = orjson.dumps(text)[1:-1]
        end = start + len(inside)
        if start > len(key) and event.startswith(inside, start) and event.startswith(b'"', end):
            self._prefix, self._suffix, self._channel = event[:start], event[end:], self._texts[name]

"""The input of a streamed call, which is an object in Anthropic's API. Pure."""

from __future__ import annotations

import orjson


class CallInput:
    """Turns the arguments of one call into the JSON of its input.

    An object passes as it arrives. Anything else waits for its end and becomes the member `arguments`, as in a whole
    answer.
    """

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._start = ""

    def feed(self, arguments: str) -> str:
        """Return the part of the input's JSON that can be sent; may be empty."""
        self._start = self._start or arguments.lstrip()[:1]
        self._kept.append(arguments)
        if self._start != "{":
            return ""
        sent = "".join(self._kept)
        self._kept.clear()
        return sent

    def end(self) -> str:
        """Return the rest of the input's JSON."""
        text = "".join(self._kept)
        return orjson.dumps({"arguments": text}).decode() if text else ""

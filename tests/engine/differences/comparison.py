"""Compare two replies to one request. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.engine.precision import PRECISION

# the text of each of these comes in pieces
_PIECES = frozenset(("text", "content", "reasoning_content", "arguments"))
# ids that the server makes, and times
VOLATILE = frozenset(("id", "created", "e2e_latency", "response_sent_to_client_ts"))
_MISSING = "nothing"


class Reply(NamedTuple):
    """A reply as it came.

    Attributes:
        status: the HTTP status.
        kind: the media type.
        body: the whole body.
    """

    status: int
    kind: str
    body: bytes


def differences(ours: Reply, theirs: Reply, ids: Collection[str] = (), unequal: Collection[str] = ()) -> list[str]:
    """Return each difference as a line: its place, the router's value, SGLang's.

    Args:
        ours: the router's reply.
        theirs: the plain server's.
        ids: ids that the client gave; all others are not compared.
        unequal: names of further members that are not compared.
    """
    left_out = VOLATILE.union(unequal)
    if ours.status != theirs.status:
        return [f"status: {ours.status} | {theirs.status}"]
    if ours.status >= 400:
        # only the reply to HEAD has no body
        return _error_faults(ours) if ours.body or theirs.body else []
    if ours.kind != theirs.kind:
        return [f"content type: {ours.kind} | {theirs.kind}"]
    if ours.kind == "text/event-stream":
        return list(_compare("", *(_read_stream(reply.body, ids, left_out) for reply in (ours, theirs))))
    return list(_compare("", *(_stable(_parse(reply.body), ids, left_out) for reply in (ours, theirs))))


def _error_faults(reply: Reply) -> list[str]:
    """Return what keeps an error of the router from being one of OpenAI's."""
    try:
        error = json.loads(reply.body)["error"]
        keys = sorted(error)
    except (ValueError, KeyError, TypeError):
        return [f"error: {reply.body[:300]!r}"]
    if keys != ["code", "message", "param", "type"] or not error["message"]:
        return [f"error: {error}"]
    return []


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


def _stable(value: Any, ids: Collection[str], left_out: Collection[str]) -> Any:
    """Return a reply without members that are not compared; an id of the client stays."""
    if isinstance(value, dict):
        return {
            name: _stable(member, ids, left_out)
            for name, member in value.items()
            if name not in left_out or (name == "id" and member in ids)
        }
    if isinstance(value, list):
        return [_stable(item, ids, left_out) for item in value]
    return value


def _read_stream(body: bytes, ids: Collection[str], left_out: Collection[str]) -> dict[str, Any]:
    """Return what a client makes of a stream, and the shapes of its events."""
    *frames, rest = body.decode().split("\n\n")
    data = [frame.removeprefix("data:").strip() for frame in frames]
    framed = not rest and all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    events = [_stable(json.loads(item), ids, left_out) for item in data if item != "[DONE]"]
    # answers of a list come in any order, and each event of `/generate` belongs to one
    edges = [] if any("index" in event for event in events) else [events[:1], events[-1:]]
    return {
        "framed": framed,
        "end": data[-1] if data and data[-1] == "[DONE]" else "no [DONE]",
        "answer": _answer(events),
        "edges": [_shapes(edge) for edge in edges],
        "events": _shapes(events),
    }


def _answer(events: Sequence[Mapping[str, Any]]) -> Any:
    if any("meta_info" in event for event in events):
        return {str(event.get("index", 0)): event for event in events}
    merged: Any = None
    for event in events:
        merged = _merge("", merged, event)
    return merged


def _merge(name: str, old: Any, new: Any) -> Any:
    if old is None or new is None:
        return new if old is None else old
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: _merge(key, old.get(key), new.get(key)) for key in {**old, **new}}
    if isinstance(old, list) and isinstance(new, list):
        if not all(isinstance(item, dict) and "index" in item for item in (*old, *new)):
            return old + new
        merged = {item["index"]: item for item in old}
        for item in new:
            merged[item["index"]] = _merge("", merged.get(item["index"]), item)
        return [merged[index] for index in sorted(merged)]
    return old + new if name in _PIECES and isinstance(old, str) and isinstance(new, str) else new


def _shapes(events: Sequence[Any]) -> dict[str, str]:
    """Return the JSON types of all values by their place."""
    types: dict[str, set[str]] = {}
    for event in events:
        for place, kind in _shape(event):
            types.setdefault(place, set()).add(kind)
    return {place: " or ".join(sorted(kinds)) for place, kinds in types.items()}


def _shape(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and not place.endswith("top_logprobs[]"):
        for name, member in value.items():
            yield from _shape(member, f"{place}.{name}" if place else name)
    elif isinstance(value, list):
        yield place, "list"
        for item in value:
            yield from _shape(item, f"{place}[]")
    else:
        yield place, type(value).__name__


def _compare(place: str, ours: Any, theirs: Any) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted({**ours, **theirs}):
            where = f"{place}.{name}" if place else name
            yield from _compare(where, ours.get(name, _MISSING), theirs.get(name, _MISSING))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _compare(f"{place}[{i}]", one, other)
    elif not _equal(ours, theirs):
        yield f"{place}: {_short(ours)} | {_short(theirs)}"


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= PRECISION.tie
    return type(ours) is type(theirs) and bool(ours == theirs)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) < 300 else f"{text[:300]}..."

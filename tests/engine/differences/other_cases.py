"""Headers, methods and encodings of requests."""

from __future__ import annotations

import gzip
import json
from typing import Any

from tests.engine.differences.case import MODEL, Case
from tests.engine.differences.chat_cases import PATH as CHAT
from tests.engine.differences.chat_cases import chat
from tests.engine.differences.completion_cases import PATH as COMPLETIONS
from tests.engine.differences.completion_cases import text
from tests.engine.differences.generate_cases import PATH as GENERATE
from tests.engine.differences.generate_cases import ids

JSON = "application/json"
BODIES: dict[str, dict[str, Any]] = {GENERATE: ids(4), COMPLETIONS: text(4), CHAT: chat(4)}
OWN_TYPE = {"Content-Type": "application/vnd.api+json"}
HEADERS: dict[str, dict[str, str]] = {
    "with a charset": {"Content-Type": f"{JSON}; charset=utf-8"},
    "with a content type of its own": OWN_TYPE,
    "as plain text": {"Content-Type": "text/plain"},
    "without a content type": {},
    "with a key": {"Content-Type": JSON, "Authorization": "Bearer none"},
    "for events": {"Content-Type": JSON, "Accept": "text/event-stream"},
    "of the openai package": {
        "Content-Type": JSON,
        "User-Agent": "OpenAI/Python 1.0",
        "X-Stainless-Lang": "python",
        "OpenAI-Organization": "x",
        "X-Request-Id": "abc",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    },
}
METHODS = ("GET", "PUT", "HEAD")


def _cases() -> list[Case]:
    cases = [_case(CHAT, name, headers) for name, headers in HEADERS.items()]
    cases += [_case(path, "with a content type of its own", OWN_TYPE) for path in (GENERATE, COMPLETIONS)]
    compressed = _case(CHAT, "compressed", {"Content-Type": JSON, "Content-Encoding": "gzip"})
    assert isinstance(compressed.body, bytes)
    cases.append(compressed._replace(body=gzip.compress(compressed.body, mtime=0)))
    for path in BODIES:
        cases += [_case(path, method, {"Content-Type": JSON})._replace(method=method) for method in METHODS]
    return cases


def _case(path: str, name: str, headers: dict[str, str]) -> Case:
    full = f"{path} {name}"
    return Case(full, path, json.dumps({"model": MODEL, "extra_key": full, **BODIES[path]}).encode(), headers=headers)


CASES = _cases()

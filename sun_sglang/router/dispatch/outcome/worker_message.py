"""A worker's error message as clients may read it: the fields at fault, and nothing of the worker's files. Pure.

SGLang answers a body that its types refuse with Python's text for a list of errors, which holds the client's values and
the path and line of its own source (`entrypoints/http_server.py`: `validation_exception_handler`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MOST_FAULTS = 5
_FAULT = re.compile(r"""'loc': [(\[]([^)\]]*)[)\]], 'msg': (?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")""")
_SOURCE = re.compile(r'\s*File "[^"\n]*"(?:, line \d+)?(?:, in \w+)?')
# an absolute path of at least two folders; not a URL, a JSON pointer or an endpoint
# where a C++ library reports its own line, such as xgrammar's `[10:02:07] /project/cpp/grammar.cc:41: `
_PLACE = re.compile(r"(?:\[[\d:. ]+\] *)?(?<![\w/:.#])/(?:[\w.+@-]+/)+[\w.+@-]+:\d+(?:: ?|\b)")
_PATH = re.compile(r"(?<![\w/:.#])/(?!v1/)(?:[\w.+@-]+/){2,}([\w.+@-]*)")


class WorkerMessage(NamedTuple):
    """A worker's message.

    Attributes:
        text: for the client.
        param: the field at fault; None if the message names none.
    """

    text: str
    param: str | None = None


def for_client(message: str) -> WorkerMessage:
    """Return a worker's message as a client may read it.

    Args:
        message: as the worker wrote it, maybe cut off at its end.
    """
    faults: dict[str, str] = {}
    for found in _FAULT.finditer(message):
        faults.setdefault(_field(found[1]), found[2] or found[3] or "")
        if len(faults) == _MOST_FAULTS:
            break
    if faults:
        text = "; ".join(f"`{field}`: {why}" if field else why for field, why in faults.items())
        return WorkerMessage(text, next(iter(faults)) or None)
    return WorkerMessage(_PATH.sub(r"\1", _PLACE.sub("", _SOURCE.sub("", message))).strip())


def _field(place: str) -> str:
    """Return a field's name from the items of pydantic's `loc`, such as `'body', 'tools', 0, 'function'`."""
    items = [item.strip().strip("'\"") for item in place.split(",") if item.strip()]
    return ".".join(items[1:] if items[:1] == ["body"] else items)

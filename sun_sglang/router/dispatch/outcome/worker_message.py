"""A worker's error message as clients may read it: the fields at fault, and nothing of the worker's files. Pure.

SGLang answers a body that its types refuse with Python's text for a list of errors, which holds the client's values and
the path and line of its own source (`entrypoints/http_server.py`: `validation_exception_handler`).
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

_MOST_FAULTS = 5
# possessive, so that no text of a client takes long to search
_QUOTED = r"""'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+\""""
_FAULT = re.compile(rf"""'loc': [(\[]((?:(?:{_QUOTED}|\d++)(?:, ?|(?=[)\]])))*+)[)\]], 'msg': ({_QUOTED})""")
_ITEM = re.compile(rf"{_QUOTED}|\d++")
# a name of a field, and not of a type among which SGLang tries to find one that accepts the value
_NAME = re.compile(r"[a-z_][a-z0-9_]*|\d+")
_SOURCE = re.compile(r'\n? {0,8}File "[^"\n]*"(?:, line \d+)?(?:, in \w+)?')
# where a C++ library reports its own line, such as xgrammar's `[10:02:07] /project/cpp/grammar.cc:41: `
_PLACE = re.compile(r"(?:\[[\d:. ]{1,32}\] ?)?(?<![\w/:.#])/(?:[\w.+@-]+/)+[\w.+@-]+:\d+(?:: ?|\b)")
# an absolute path of at least two folders; not a URL, a JSON pointer or an endpoint
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
    faults: dict[str, dict[str, None]] = {}
    for found in itertools.islice(dict.fromkeys(map(re.Match.groups, _FAULT.finditer(message))), _MOST_FAULTS):
        faults.setdefault(_field(found[0]), {})[found[1][1:-1]] = None
    if faults:
        text = "; ".join(f"`{field}`: {', or: '.join(why)}" for field, why in faults.items())
        return WorkerMessage(text, next(iter(faults)))
    return WorkerMessage(_PATH.sub(r"\1", _PLACE.sub("", _SOURCE.sub("", message))).strip())


def _field(place: str) -> str:
    """Return a field's name from the items of pydantic's `loc`, such as `'body', 'tools', 0, 'function'`."""
    items = [item.strip("'\"") for item in _ITEM.findall(place)]
    return ".".join(item for item in items[items[:1] == ["body"] :] if _NAME.fullmatch(item)) or "body"

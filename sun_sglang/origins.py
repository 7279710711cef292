"""Origins of web pages, as browsers send them in the header `Origin`."""

from __future__ import annotations

import re

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(?:\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::([0-9]{1,5}))?")
# browsers leave these ports out, so an origin with one never matches
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def check_origin(text: str) -> str:
    """Return an origin, or `*` for every origin.

    Raises:
        ValueError: no browser sends this text as the origin of a page.
    """
    found = _ORIGIN.fullmatch(text)
    if text == "*" or (found and (found[2] is None or _DEFAULT_PORTS.get(found[1]) != found[2])):
        return text
    raise ValueError(
        "is not an origin as browsers send it; write scheme and host in lower case, without a path and without the "
        "scheme's own port, such as `https://app.example.com` or `http://localhost:3000`; `*` is every origin"
    )

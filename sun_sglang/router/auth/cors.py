"""Cross-origin requests of web pages (CORS): which pages may call the router, and the headers that permit it. Pure.

A browser sends a page's request to another origin only if the reply to a preflight permits it, and shows the page only
responses that name its origin. A listed origin may also send credentials (a cookie of a proxy before the router); `*`
permits every page, and no credentials, as the specification requires (https://fetch.spec.whatwg.org/#http-cors-protocol).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sun_sglang.router.observability.request_id import REQUEST_ID_HEADER

_EXPOSED = f"{REQUEST_ID_HEADER}, Retry-After, X-Sun-Adapter, X-Sun-Module"
_MAX_AGE_S = 600
# OpenAI's client sends about ten
_MOST_NAMES = 64
_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")


class CrossOriginPolicy:
    """The pages that may call the router.

    Args:
        origins: exact origins (`https://app.example.com`); `*` is every origin.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        listed = frozenset(origins)
        self._any = "*" in listed
        self._listed = listed - {"*"}

    @property
    def is_enabled(self) -> bool:
        """Whether any page may call the router."""
        return self._any or bool(self._listed)

    def allows(self, origin: str) -> bool:
        """Return whether pages of an origin may call the router."""
        return self._any or origin in self._listed

    def response_headers(self, origin: str | None) -> dict[str, str]:
        """Return the headers of every response.

        Args:
            origin: the request's `Origin`; None for a request without one.
        """
        # a cache must not give one page the response to another
        headers = {"Vary": "Origin"} if self._listed else {}
        if origin is None or not self.allows(origin):
            return headers
        headers["Access-Control-Expose-Headers"] = _EXPOSED
        if origin in self._listed:
            return headers | {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"}
        return headers | {"Access-Control-Allow-Origin": "*"}

    def preflight_headers(self, methods: Iterable[str], asked: str) -> dict[str, str]:
        """Return the further headers of the reply to a preflight from a page that may call the router.

        Args:
            methods: the methods of the path.
            asked: the preflight's `Access-Control-Request-Headers`. A page may send any header: the router ignores
                those that it does not know.
        """
        headers = {"Access-Control-Allow-Methods": ", ".join(methods), "Access-Control-Max-Age": f"{_MAX_AGE_S}"}
        names = [name.strip() for name in asked.split(",", _MOST_NAMES)][:_MOST_NAMES]
        if allowed := [name for name in names if _NAME.fullmatch(name)]:
            headers["Access-Control-Allow-Headers"] = ", ".join(allowed)
        return headers

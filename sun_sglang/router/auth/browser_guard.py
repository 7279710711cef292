"""Requests that a web page makes somebody's browser send. Pure.

A router without keys serves whoever reaches it, and a browser on the same machine or network does. Two attacks use
that. In DNS rebinding a page's own host name begins to mean the router's address, so that the page may read every
answer; such a request carries the page's host name in `Host`. In a cross-site request a page sends what it may send
without being able to read the answer: a GET, or a POST of a form's content types.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from aiohttp import web

from sun_sglang.router.errors import ApiError

# Names that no public DNS zone holds (RFC 6761, 6762, 8375, and ICANN's reservation of `internal`), so that no page
# comes from them. The same is true of a name without a dot.
_PRIVATE = (".localhost", ".local", ".internal", ".home.arpa")
_OWN = frozenset({"same-origin", "none"})
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class BrowserGuard:
    """Refuses what a foreign web page may have sent. A client that shows a key is none, so it has no work there.

    Args:
        hosts: host names by which clients know the router, besides addresses and private names; `*` for all, and
            `*.example.com` for all below a domain.
        tls: the router shows a certificate, which rules out rebinding.
    """

    def __init__(self, hosts: Iterable[str], *, tls: bool) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._domains = tuple(host[1:] for host in self._hosts if host.startswith("*."))
        self._any_host = tls or "*" in self._hosts

    def check(self, method: str, path: str, headers: Mapping[str, str], *, cross_site: bool) -> None:
        """Refuse a request under a foreign host name, and one that a foreign page must not cause.

        Args:
            method: HTTP method of the request.
            path: its path, for the message.
            headers: its headers.
            cross_site: any page may cause the request, since it changes nothing.

        Raises:
            ApiError: 403.
        """
        host = headers.get("Host", "")
        if not (self._any_host or self._knows(host)):
            name = _name(host)
            message = f"`{name}` is not a name of this router; list it under `router.hosts`, or use an address"
            raise ApiError(403, message, code="host_not_allowed")
        if not cross_site and (page := _foreign_page(method, host, headers)):
            message = f"{method} {path} from {page} is refused; send it from a program, or give the router API keys"
            raise ApiError(403, f"{message} (`router.api_keys`)", code="cross_site_request")

    def _knows(self, host: str) -> bool:
        name = _name(host)
        return (
            "." not in name
            or _is_address(name)
            or name in self._hosts
            or name.endswith(_PRIVATE)
            or name.endswith(self._domains)
        )


def require_json(http: web.Request) -> None:
    """Raise Problem (400) for a body of another content type: a page may send forms and plain text anywhere."""
    if http.content_type != "application/json":
        raise ApiError(400, "send JSON, with `Content-Type: application/json`", code="invalid_content_type")


def _foreign_page(method: str, host: str, headers: Mapping[str, str]) -> str:
    """The page that a request comes from, for a message; empty for a program and for the router's own address."""
    origin = headers.get("Origin")
    if origin is not None:
        of = origin.partition("://")[2].lower()
        return "" if of and of == host.lower() else f"the page `{origin}`"
    if (site := headers.get("Sec-Fetch-Site")) is not None:
        return "" if site in _OWN else "another page"
    # To an address without TLS a browser says nothing of the page with a GET, as an image tag causes one.
    is_silent_browser = method in _READS and headers.get("User-Agent", "").startswith("Mozilla/")
    return "a browser" if is_silent_browser else ""


def _name(host: str) -> str:
    """The host name in a `Host` header, without port, brackets and final dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True

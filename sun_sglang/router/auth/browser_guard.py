"""The guard against requests that a foreign web page makes a browser send. Pure.

A router without keys serves every client that reaches it, including a browser on the same machine or network. Two
attacks use that. In DNS rebinding, the name server of a page's host name starts to return the router's address, so that
the page can read every response; such a request has the page's host name in `Host`. In a cross-site request, a page
sends a request whose response it cannot read: a GET, or a POST with a form's content type.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from aiohttp import web

from sun_sglang.router.errors import ApiError

# No public DNS zone holds these names (RFC 6761, 6762, 8375, and ICANN's reservation of `internal`), so no foreign page
# has one. The same is true of a name without a dot.
_PRIVATE = (".localhost", ".local", ".internal", ".home.arpa")
_OWN = frozenset({"same-origin", "none"})
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class BrowserGuard:
    """Refuses requests that a foreign web page may have caused.

    A router with keys needs no guard, since a foreign page has no key.

    Args:
        hosts: host names of the router, besides addresses and private names; `*` allows every name, and `*.example.com`
            every name below a domain.
        tls: the router has a certificate, which prevents DNS rebinding.
    """

    def __init__(self, hosts: Iterable[str], *, tls: bool) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._domains = tuple(host[1:] for host in self._hosts if host.startswith("*."))
        self._any_host = tls or "*" in self._hosts

    def check(self, method: str, path: str, headers: Mapping[str, str], *, cross_site: bool) -> None:
        """Raise the refusal of a request, if there is one; see `refusal`.

        Raises:
            ApiError: 403.
        """
        if (error := self.refusal(method, path, headers, cross_site=cross_site)) is not None:
            raise error

    def refusal(self, method: str, path: str, headers: Mapping[str, str], *, cross_site: bool) -> ApiError | None:
        """Return the error (403) for a request that a foreign page must not cause, or under a foreign host name.

        A preflight has the `Host` and the `Origin` of the request that it announces, so the two are judged alike.

        Args:
            method: HTTP method of the request, or the one that its preflight announces.
            path: its path, for the message.
            headers: its headers.
            cross_site: any page may cause the request, since it changes nothing.

        Returns:
            None for a request that may pass.
        """
        host = headers.get("Host", "")
        if not (self._any_host or self._knows(host)):
            name = _name(host)
            message = f"`{name}` is not a name of this router; list it under `router.hosts`, or use an address"
            return ApiError(403, message, code="host_not_allowed")
        if not cross_site and (page := _foreign_page(method, host, headers)):
            message = f"{method} {path} from {page} is refused; send it from a program, or give the router API keys"
            return ApiError(403, f"{message} (`router.api_keys`)", code="cross_site_request")
        return None

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
    """Raise ApiError (400) for a body that is not JSON: any page may send forms and plain text to any site."""
    if http.content_type != "application/json":
        raise ApiError(400, "send JSON, with `Content-Type: application/json`", code="invalid_content_type")


def _foreign_page(method: str, host: str, headers: Mapping[str, str]) -> str:
    """Return the page that caused a request, for a message; empty for a program and for the router's own pages."""
    origin = headers.get("Origin")
    if origin is not None:
        of = origin.partition("://")[2].lower()
        return "" if of and of == host.lower() else f"the page `{origin}`"
    if (site := headers.get("Sec-Fetch-Site")) is not None:
        return "" if site in _OWN else "another page"
    # A browser names no page in a GET to an address without TLS, such as an image tag causes.
    is_silent_browser = method in _READS and headers.get("User-Agent", "").startswith("Mozilla/")
    return "a browser" if is_silent_browser else ""


def _name(host: str) -> str:
    """Return the host name in a `Host` header without port, brackets and final dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True

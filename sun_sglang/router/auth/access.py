"""Access control: the rule of a route, the key of a request, and TLS."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from sun_sglang.contracts.fleet_file import Fleet, FleetError
from sun_sglang.errors import UserError
from sun_sglang.router.auth.api_keys import ApiKey, Keyring, KeySpec, load_keys
from sun_sglang.router.errors import ApiError
from sun_sglang.topology import Router

# The requirement of a route where the router has keys: nothing, any key, a key that may read metrics, or an admin key.
AccessRule = Literal["open", "key", "metrics", "admin"]
# the key of the request that the current asyncio task handles; None where the request needs none
current_key: ContextVar[ApiKey | None] = ContextVar("current_key")


class AccessControl:
    """Checks requests against the keys. Without keys every request is let in.

    Args:
        specs: the keys.
        internal: the launcher's own admin key; None if there is none.
        processes: how many router processes share the keys' rates.
    """

    def __init__(self, specs: tuple[KeySpec, ...], internal: str | None, processes: int = 1) -> None:
        self._specs = specs
        self._processes = processes
        self._own = (KeySpec(name="launcher", key=internal, admin=True),) if internal else ()
        self._ring = Keyring((*specs, *self._own), processes) if specs else None

    @property
    def requires_keys(self) -> bool:
        """Whether requests need keys."""
        return self._ring is not None

    def replace(self, specs: tuple[KeySpec, ...]) -> bool:
        """Use other keys from now on. Requests that were let in continue. Return whether the keys differ."""
        if specs == self._specs:
            return False
        self._specs = specs
        self._ring = Keyring((*specs, *self._own), self._processes, self._ring)
        return True

    def identify(self, headers: Mapping[str, str]) -> ApiKey | None:
        """Return the key that a request presents; None for none or an unknown one, and where the router has no keys."""
        return None if self._ring is None else self._ring.find(_token(headers))

    def check(self, rule: AccessRule, headers: Mapping[str, str]) -> ApiKey | None:
        """Return the key of a request; None where the request needs none.

        Args:
            rule: the rule of the request's route.
            headers: of the request.

        Raises:
            ApiError: 401 without a known key, 403 with one that does not satisfy the rule.
        """
        if self._ring is None or rule == "open":
            return None
        key = self.identify(headers)
        if key is None:
            message = "send a valid key, as `Authorization: Bearer KEY`"
            raise ApiError(401, message, code="invalid_api_key")
        if rule == "admin":
            require_admin(key)
        if rule == "metrics" and not key.metrics:
            message = f"key `{key.name}` may not do this; an admin key may, and one with `metrics: true`"
            raise ApiError(403, message, code="admin_key_required")
        return key


def require_admin(key: ApiKey | None) -> None:
    """Raise ApiError (403) for a key that is not an admin key. No key means that the router has none."""
    if key is not None and not key.admin:
        raise ApiError(403, f"key `{key.name}` may not do this; an admin key may", code="admin_key_required")


def visible_tasks(tasks: Sequence[str]) -> Sequence[str]:
    """Return the tasks that the key of the current request may call; for its client no others exist."""
    key = current_key.get()
    return tasks if key is None else key.visible(tasks)


def load_access_control(fleet: Fleet, environment: Mapping[str, str]) -> AccessControl:
    """Return the access control of a fleet, with the launcher's own key.

    Raises:
        UserError: a file of keys cannot be read or is invalid.
    """
    internal = None
    if fleet.admin_key_file is not None:
        try:
            internal = Path(fleet.admin_key_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise FleetError(f"admin_key_file: {fleet.admin_key_file} cannot be read") from e
    return AccessControl(load_keys(fleet.router.api_keys, environment), internal, fleet.router.processes)


def load_tls_context(router: Router) -> ssl.SSLContext | None:
    """Return the TLS context with the router's certificate; None for plain HTTP.

    Raises:
        UserError: the certificate or its key cannot be read, or they do not match.
    """
    if router.tls_cert is None or router.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(router.tls_cert, router.tls_key, password=_no_password)
    except (OSError, ValueError) as e:
        raise UserError(f"router.tls_cert: {router.tls_cert} and {router.tls_key} cannot be used ({e})") from e
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted; use one without a password")


def _token(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("X-API-Key", "")

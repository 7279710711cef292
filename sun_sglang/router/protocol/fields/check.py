"""Applies the table of request fields to a body: what the workers get of it, or why it is refused. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.fields.kinds import INT32_MAX, Kind
from sun_sglang.router.protocol.fields.table import GENERATE, SAMPLING_PARAMS, Passed, Refused, Table, Taken

# One request may become this many; every one of them is a request to two workers.
MAX_FAN_OUT = 4096
# Values of a refused field that say nothing.
_SAYS_NOTHING: tuple[object, ...] = ("", [], {})


def passed(body: Mapping[str, Any], table: Table, allowed: Collection[str]) -> dict[str, Any]:
    """Return the fields of a body that its workers get.

    Args:
        body: the client's fields.
        table: what becomes of each; a field that is not in it is dropped.
        allowed: gates that the topology opens (`router.allow`).

    Raises:
        RequestError: 400 for a field that is refused, or not of its kind.
    """
    kept: dict[str, Any] = {}
    for name, value in body.items():
        rule = table.get(name)
        if isinstance(rule, Passed):
            if value is None:
                continue
            kind, each, gate, _ = rule
            if gate and gate not in allowed:
                raise gated(name, gate)
            if not kind.holds(value) and not (each and _is_each(kind, value)):
                raise wrong(name, kind)
            kept[name] = value
        elif isinstance(rule, Refused):
            _refuse(name, value, rule)
    return kept


def passed_sampling(params: Mapping[str, Any], allowed: Collection[str]) -> dict[str, Any]:
    """Return the members of /generate's `sampling_params` that the workers get.

    Not every version of SGLang checks this object in its HTTP server (srt/entrypoints/api_contract.py). Without that
    check a wrong type ends the whole server, in a scheduler (decoded by msgspec), and an unknown name is a 500.

    Raises:
        RequestError: 400 for an unknown name, a refused one, or a value that is not of its kind.
    """
    kept: dict[str, Any] = {}
    for name, value in params.items():
        rule = SAMPLING_PARAMS.get(name)
        if isinstance(rule, Passed):
            kind, _, gate, keeps_null = rule
            if value is None:
                if keeps_null:
                    kept[name] = None
                continue
            if gate and gate not in allowed:
                raise gated(f"sampling_params.{name}", gate)
            if not kind.holds(value):
                raise wrong(f"sampling_params.{name}", kind)
            kept[name] = value
        elif isinstance(rule, Refused):
            _refuse(f"sampling_params.{name}", value, rule)
        elif rule is None:
            raise _unknown(f"sampling_params.{name}")
    return kept


def take(body: Mapping[str, Any], name: str, table: Table, where: str = "") -> Any:
    """Return the value of a field that the router reads itself; None where it is absent or null.

    Raises:
        RequestError: 400 for a value that is not of the field's kind.
    """
    value = body.get(name)
    if value is None:
        return None
    rule = table[name]
    assert isinstance(rule, Taken)
    if not rule.kind.holds(value):
        raise wrong(where or name, rule.kind)
    return value


def wrong(name: str, kind: Kind) -> RequestError:
    """The answer to a value that is not of its field's kind."""
    return RequestError(400, f"`{name}` has to be {kind.says}", param=name)


def gated(name: str, gate: str) -> RequestError:
    """The answer to a field that the topology does not allow."""
    message = (
        f"`{name}` is not allowed here: it can stop a worker that others share; "
        f"remove it, or let the operator set `router: {{allow: [{gate}]}}` in the topology"
    )
    return RequestError(400, message, param=name, code="field_not_allowed")


def is_each(value: object, name: str) -> TypeGuard[list[Any]]:
    """Whether a field of /generate holds one value for each prompt, and not one for all."""
    rule = GENERATE[name]
    return isinstance(value, list) and isinstance(rule, Passed) and rule.each and not rule.kind.holds(value)


def check_token_ids(ids: object, name: str) -> None:
    """Raise RequestError (400) unless `ids` is a non-empty list of token ids (32-bit, from 0)."""
    if not isinstance(ids, list) or not ids:
        raise RequestError(400, f"`{name}` has to be a non-empty list of token ids", param=name)
    # one pass in C each: a long prompt has tens of thousands of them
    if set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) > INT32_MAX:
        raise RequestError(400, f"`{name}` has to hold token ids: integers from 0", param=name)


def _unknown(name: str) -> RequestError:
    known = ", ".join(n for n, rule in SAMPLING_PARAMS.items() if isinstance(rule, Passed | Taken))
    return RequestError(400, f"`{name}` is not a sampling parameter; known: {known}", param=name)


def _is_each(kind: Kind, value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(item is None or kind.holds(item) for item in value)


def _refuse(name: str, value: object, rule: Refused) -> None:
    if value is None or value is False or value in _SAYS_NOTHING:
        return
    raise RequestError(400, f"`{name}` is not for clients to set: {rule.why}", param=name, code="reserved_field")

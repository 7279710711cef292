"""Applies the table of request fields to a body: what the workers get of it, or why it is refused. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.fields.table import GENERATE, SAMPLING_PARAMS, Forwarded, Refused, RouterOwned, Table
from sun_sglang.router.protocol.fields.value_types import INT32_MAX, ValueType

# One request may become this many; every one of them is a request to two workers.
MAX_FAN_OUT = 4096
# Values of a refused field that say nothing.
_SAYS_NOTHING: tuple[object, ...] = ("", [], {})


def forwarded_fields(body: Mapping[str, Any], table: Table, allowed: Collection[str]) -> dict[str, Any]:
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
        if isinstance(rule, Forwarded):
            if value is None:
                continue
            kind, each, gate, _ = rule
            if gate and gate not in allowed:
                raise field_not_allowed(name, gate)
            if not kind.accepts(value) and not (each and _is_each(kind, value)):
                raise invalid_value(name, kind)
            kept[name] = value
        elif isinstance(rule, Refused):
            _refuse(name, value, rule)
    return kept


def forwarded_sampling_params(params: Mapping[str, Any], allowed: Collection[str]) -> dict[str, Any]:
    """Return the members of /generate's `sampling_params` that the workers get.

    Not every version of SGLang checks this object in its HTTP server (srt/entrypoints/api_contract.py). Without that
    check a wrong type ends the whole server, in a scheduler (decoded by msgspec), and an unknown name is a 500.

    Raises:
        RequestError: 400 for an unknown name, a refused one, or a value that is not of its kind.
    """
    kept: dict[str, Any] = {}
    for name, value in params.items():
        rule = SAMPLING_PARAMS.get(name)
        if isinstance(rule, Forwarded):
            kind, _, gate, keeps_null = rule
            if value is None:
                if keeps_null:
                    kept[name] = None
                continue
            if gate and gate not in allowed:
                raise field_not_allowed(f"sampling_params.{name}", gate)
            if not kind.accepts(value):
                raise invalid_value(f"sampling_params.{name}", kind)
            kept[name] = value
        elif isinstance(rule, Refused):
            _refuse(f"sampling_params.{name}", value, rule)
        elif rule is None:
            raise _unknown(f"sampling_params.{name}")
    return kept


def read_field(body: Mapping[str, Any], name: str, table: Table, where: str = "") -> Any:
    """Return the value of a field that the router reads itself; None where it is absent or null.

    Raises:
        RequestError: 400 for a value that is not of the field's kind.
    """
    value = body.get(name)
    if value is None:
        return None
    rule = table[name]
    assert isinstance(rule, RouterOwned)
    if not rule.type.accepts(value):
        raise invalid_value(where or name, rule.type)
    return value


def invalid_value(name: str, kind: ValueType) -> RequestError:
    """The answer to a value that is not of its field's kind."""
    return RequestError(400, f"`{name}` has to be {kind.description}", param=name)


def field_not_allowed(name: str, gate: str) -> RequestError:
    """The answer to a field that the topology does not allow."""
    message = (
        f"`{name}` is not allowed here: it can stop a worker that others share; "
        f"remove it, or let the operator set `router: {{allow: [{gate}]}}` in the topology"
    )
    return RequestError(400, message, param=name, code="field_not_allowed")


def is_per_prompt(value: object, name: str) -> TypeGuard[list[Any]]:
    """Whether a field of /generate holds one value for each prompt, and not one for all."""
    rule = GENERATE[name]
    return isinstance(value, list) and isinstance(rule, Forwarded) and rule.per_prompt and not rule.type.accepts(value)


def check_token_ids(ids: object, name: str) -> None:
    """Raise RequestError (400) unless `ids` is a non-empty list of token ids (32-bit, from 0)."""
    if not isinstance(ids, list) or not ids:
        raise RequestError(400, f"`{name}` has to be a non-empty list of token ids", param=name)
    # one pass in C each: a long prompt has tens of thousands of them
    if set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) > INT32_MAX:
        raise RequestError(400, f"`{name}` has to hold token ids: integers from 0", param=name)


def _unknown(name: str) -> RequestError:
    known = ", ".join(n for n, rule in SAMPLING_PARAMS.items() if isinstance(rule, Forwarded | RouterOwned))
    return RequestError(400, f"`{name}` is not a sampling parameter; known: {known}", param=name)


def _is_each(kind: ValueType, value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(item is None or kind.accepts(item) for item in value)


def _refuse(name: str, value: object, rule: Refused) -> None:
    if value is None or value is False or value in _SAYS_NOTHING:
        return
    raise RequestError(400, f"`{name}` is not for clients to set: {rule.why}", param=name, code="reserved_field")

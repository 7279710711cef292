"""Apply the table of request fields to a body: return the fields for the workers, or refuse the request. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, TypeGuard

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.fields.table import (
    GENERATE,
    SAMPLING_PARAMS,
    Forwarded,
    Refused,
    RouterOwned,
    Table,
    is_lax,
)
from sun_sglang.router.protocol.fields.value_types import INT32_MAX, ValueType

# the most answers of one request; each is a request to two workers
MAX_FAN_OUT = 4096
# values of a refused field that mean the same as no value
_SAYS_NOTHING: tuple[object, ...] = ("", [], {})


def forwarded_fields(body: Mapping[str, Any], table: Table, allowed: Collection[str]) -> dict[str, Any]:
    """Return the fields of a body that the workers receive.

    Args:
        body: the client's fields.
        table: the rule for each field; a field without a rule is dropped.
        allowed: the permissions that the topology grants (`router.allow`).

    Raises:
        RequestError: 400, a field is refused, needs a missing permission, or has an invalid value.
    """
    kept: dict[str, Any] = {}
    for name, value in body.items():
        rule = table.get(name)
        if isinstance(rule, Forwarded):
            if value is None:
                continue
            type_, per_prompt, permission, _ = rule
            if permission and permission not in allowed:
                raise field_not_allowed(name, permission)
            if per_prompt and _is_list_of(type_, value):
                kept[name] = value
            else:
                kept[name] = checked_value(name, type_, value, lax=is_lax(table))
        elif isinstance(rule, Refused):
            _refuse(name, value, rule)
    return kept


def forwarded_sampling_params(params: Mapping[str, Any], allowed: Collection[str]) -> dict[str, Any]:
    """Return the members of /generate's `sampling_params` that the workers receive.

    Not every version of SGLang checks this object in its HTTP server (srt/entrypoints/api_contract.py). Without that
    check a wrong type ends the whole server, in a scheduler (decoded by msgspec), and an unknown name is a 500.

    Args:
        params: the client's sampling parameters.
        allowed: the permissions that the topology grants.

    Raises:
        RequestError: 400, a name is unknown or refused, needs a missing permission, or has an invalid value.
    """
    kept: dict[str, Any] = {}
    for name, value in params.items():
        rule = SAMPLING_PARAMS.get(name)
        if isinstance(rule, Forwarded):
            type_, _, permission, keeps_null = rule
            if value is None:
                if keeps_null:
                    kept[name] = None
                continue
            if permission and permission not in allowed:
                raise field_not_allowed(f"sampling_params.{name}", permission)
            kept[name] = checked_value(f"sampling_params.{name}", type_, value, lax=False)
        elif isinstance(rule, Refused):
            _refuse(f"sampling_params.{name}", value, rule)
        elif rule is None:
            raise _unknown(f"sampling_params.{name}")
    return kept


def read_field(body: Mapping[str, Any], name: str, table: Table, where: str = "") -> Any:
    """Return the value of a field that the router reads itself; None if it is absent or null.

    Args:
        body: the client's fields.
        name: name of the field.
        table: the table with the field's rule.
        where: the name of the field in an error message, if it is another one.

    Raises:
        RequestError: 400, the value is invalid.
    """
    value = body.get(name)
    if value is None:
        return None
    rule = table[name]
    assert isinstance(rule, RouterOwned)
    return checked_value(where or name, rule.type, value, lax=is_lax(table))


def checked_value(name: str, expected: ValueType, value: Any, *, lax: bool) -> Any:
    """Return the value for the workers.

    Args:
        name: name of the field, for the error.
        expected: its type.
        value: the client's value, which is not null.
        lax: convert the value as SGLang's OpenAI classes do.

    Raises:
        RequestError: 400, the value is not of the type.
    """
    if expected.accepts(value):
        return value
    if lax and expected.lax is not None:
        with suppress(ValueError):
            converted = expected.lax(value)
            if expected.accepts(converted):
                return converted
    raise invalid_value(name, expected)


def invalid_value(name: str, expected: ValueType) -> RequestError:
    """Return the error for a value that is not of its field's type."""
    return RequestError(400, f"`{name}` must be {expected.description}", param=name)


def field_not_allowed(name: str, permission: str, param: str | None = None) -> RequestError:
    """Return the error for a field that the topology does not allow.

    Args:
        name: the field, or the place in it.
        permission: the entry of `router.allow` that it needs.
        param: the field, where `name` is a place in it.
    """
    message = (
        f"`{name}` is not allowed here: it can stop a worker that others share; "
        f"remove it, or let the operator set `router: {{allow: [{permission}]}}` in the topology"
    )
    return RequestError(400, message, param=param or name, code="field_not_allowed")


def is_per_prompt(value: object, name: str) -> TypeGuard[list[Any]]:
    """Return whether a field of /generate contains one value for each prompt, instead of one for all."""
    rule = GENERATE[name]
    return isinstance(value, list) and isinstance(rule, Forwarded) and rule.per_prompt and not rule.type.accepts(value)


def check_token_ids(ids: object, name: str) -> None:
    """Raise RequestError (400) unless `ids` is a non-empty list of token ids (32-bit, from 0)."""
    if not isinstance(ids, list) or not ids:
        raise RequestError(400, f"`{name}` must be a non-empty list of token ids", param=name)
    # each of these is one pass in C: a long prompt has tens of thousands of ids
    if set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) > INT32_MAX:
        raise RequestError(400, f"`{name}` must hold token ids: integers from 0", param=name)


def _unknown(name: str) -> RequestError:
    known = ", ".join(n for n, rule in SAMPLING_PARAMS.items() if isinstance(rule, Forwarded | RouterOwned))
    return RequestError(400, f"`{name}` is not a sampling parameter; known: {known}", param=name)


def _is_list_of(type_: ValueType, value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(item is None or type_.accepts(item) for item in value)


def _refuse(name: str, value: object, rule: Refused) -> None:
    if value is None or value is False or value in _SAYS_NOTHING:
        return
    raise RequestError(400, f"`{name}` is not for clients to set: {rule.why}", param=name, code="reserved_field")

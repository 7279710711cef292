"""Bounds on the JSON schemas that a worker's grammar compiler receives, and on the nesting of JSON. Pure.

A decode worker's scheduler computes a mask over the vocabulary from a request's grammar at every step, and all requests
of the batch wait for it. With XGrammar 0.2.7 and a vocabulary of 32,000, the regular expression `(.{1,9}){1,9}` takes
0.9 s for each step and `(((a{1,100}){1,100}){1,100})b` takes 1.8 s, and so does either as the `pattern` of a JSON
schema. A JSON schema without patterns takes at most tens of milliseconds within these bounds, and usually less than
one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.fields.check import field_not_allowed
from sun_sglang.router.protocol.fields.schema_loops import has_loop
from sun_sglang.router.protocol.nesting import MAX_DEPTH, is_too_deep

# the most levels of a schema: compiling 512 levels takes 7 s, 64 take 20 ms
MAX_SCHEMA_DEPTH = 64
# the most names and list entries of a schema
MAX_SCHEMA = 4000
# The most characters of its names and of the strings that an answer may have to repeat. Compiling takes more than
# linear time: 390 KB in an `enum` kept the processors of two workers busy for 66 s.
MAX_SCHEMA_TEXT = 32_768
# the most alternatives of a schema: compiling 200 similar ones takes 15 s and 3 GB
MAX_ALTERNATIVES = 64

_ANY_JSON = "$$ANY$$"  # SGLang's name for "any JSON" (constrained/xgrammar_backend.py)
_GRAMMARS = ("json_schema", "regex", "ebnf", "structural_tag")
_ALTERNATIVES = ("anyOf", "oneOf", "allOf", "type")
_NULLS: tuple[object, ...] = ("null", {"type": "null"})
_CONTAINERS = frozenset({dict, list})


def check_depth(raw: bytes, body: Any) -> None:
    """Raise RequestError (400) for JSON deeper than `MAX_DEPTH` levels, which the router could not write for a worker.

    Args:
        raw: the body. A body with few brackets is not examined further.
        body: the parsed body.
    """
    if is_too_deep(raw, body):
        raise RequestError(400, f"the body is nested deeper than {MAX_DEPTH} levels", code="invalid_json")


def check_grammars(body: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Check the grammar that an OpenAI request sets for its answer.

    Args:
        body: the fields of the request.
        allowed: the permissions that the topology grants.

    Raises:
        RequestError: 400, a schema is out of bounds, or needs a permission that the topology does not grant.
    """
    if "response_format" in body:
        wanted = body["response_format"]
        if wanted.get("type") == "structural_tag" and "structural_tag" not in allowed:
            raise field_not_allowed("response_format.type", "structural_tag", "response_format")
        wrapped = wanted.get("json_schema")
        schema = wrapped.get("schema") if isinstance(wrapped, dict) else wanted.get("schema")
        _check_schemas([schema], "response_format", allowed)
    if "json_schema" in body:
        check_schema_text(body["json_schema"], "json_schema", allowed)


def check_tools(tools: Sequence[Any], choice: object, allowed: Collection[str]) -> None:
    """Check the schemas of tools. A worker compiles all of them if a call is required or a function is strict.

    Args:
        tools: the tools of the request and of its messages.
        choice: the field `tool_choice`.
        allowed: the permissions that the topology grants.

    Raises:
        RequestError: as `check_grammars`.
    """
    if _compiles(tools, choice):
        functions = (tool.get("function") for tool in tools if isinstance(tool, dict))
        schemas = [f.get("parameters") for f in functions if isinstance(f, dict)]
        if not all(schema is None or isinstance(schema, dict) for schema in schemas):
            raise RequestError(400, "`tools.function.parameters` must be an object", param="tools")
        _check_schemas(schemas, "tools", allowed)


def check_min_tokens(least: object, constraints: Mapping[str, Any], where: str) -> None:
    """Refuse a minimum of tokens for an answer that must follow a grammar.

    SGLang forbids a request's stop tokens before `min_tokens`, and the grammar may allow no other token there. Sampling
    without any allowed token is an error that ends the scheduler's process.

    Args:
        least: the minimum of tokens; None or 0 if there is none.
        constraints: the request's fields, or its sampling parameters, which may contain a grammar.
        where: the name of the field with the minimum.

    Raises:
        RequestError: 400, the request has both.
    """
    if not least:
        return
    named = [name for name in _GRAMMARS if constraints.get(name)]
    if isinstance(wanted := constraints.get("response_format"), dict) and wanted.get("type") not in (None, "text"):
        named.append("response_format")
    if constraints.get("tools") and _compiles(constraints["tools"], constraints.get("tool_choice")):
        named.append("tools")
    if named:
        message = f"`{where}` cannot be combined with `{named[0]}`, which sets where the answer ends; send one of them"
        raise RequestError(400, message, param=where)


def check_schema_text(schema: str, where: str, allowed: Collection[str]) -> None:
    """Check a JSON schema that is sent as a string.

    Args:
        schema: the text of the schema.
        where: the name of its field.
        allowed: the permissions that the topology grants.

    Raises:
        RequestError: 400, the text is not JSON; and as `check_grammars`.
    """
    if not schema or schema == _ANY_JSON:
        return
    try:
        parsed = orjson.loads(schema)
    except orjson.JSONDecodeError as e:
        raise RequestError(400, f"`{where}` is not valid JSON: {e}", param=where) from e
    _check_schemas([parsed], where, allowed)


def _compiles(tools: Sequence[Any], choice: object) -> bool:
    return choice == "required" or isinstance(choice, dict) or any(map(_is_strict, tools))


def _is_strict(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and bool(function.get("strict"))


def _check_schemas(schemas: Sequence[Any], where: str, allowed: Collection[str]) -> None:
    """Check schemas that a worker compiles into one grammar.

    A `$ref` may point to any place of the document, so every object counts as a schema.
    """
    size = text = alternatives = depth = 0
    level = [schema for schema in schemas if schema.__class__ in _CONTAINERS]
    while level:
        depth += 1
        size += sum(map(len, level))
        if depth > MAX_SCHEMA_DEPTH:
            raise RequestError(400, f"`{where}` is nested deeper than {MAX_SCHEMA_DEPTH} levels", param=where)
        if size > MAX_SCHEMA:
            raise RequestError(400, f"`{where}` has more than {MAX_SCHEMA:,} names and list entries", param=where)
        below: list[Any] = []
        for node in level:
            if node.__class__ is dict:
                if "regex" not in allowed:
                    _refuse_patterns(node, where)
                text += sum(map(len, node))
                if isinstance(constant := node.get("const"), str):
                    text += len(constant)
                alternatives += sum(_alternatives(node[name]) for name in _ALTERNATIVES if name in node)
                below.extend(value for value in node.values() if value.__class__ in _CONTAINERS)
            else:
                text += sum(len(item) for item in node if item.__class__ is str)
                below.extend(item for item in node if item.__class__ in _CONTAINERS)
        if text > MAX_SCHEMA_TEXT:
            message = f"`{where}` has more than {MAX_SCHEMA_TEXT:,} characters of names and values"
            raise RequestError(400, message, param=where)
        level = below
    if alternatives > MAX_ALTERNATIVES:
        message = f"`{where}` has {alternatives} alternatives (`anyOf`, `type`, ...); send at most {MAX_ALTERNATIVES}"
        raise RequestError(400, message, param=where)
    if any(map(has_loop, schemas)):
        raise RequestError(400, f"`{where}` has a `$ref` that leads only to itself", param=where)


def _refuse_patterns(node: Mapping[str, Any], where: str) -> None:
    # a property may be named `pattern`; its value is a schema and not a string
    if isinstance(node.get("pattern"), str):
        raise field_not_allowed(f"{where}: pattern", "regex", where)
    if node.get("patternProperties"):
        raise field_not_allowed(f"{where}: patternProperties", "regex", where)


def _alternatives(options: Any) -> int:
    """Return how many alternatives besides null a place of a schema has; a single one counts as none."""
    if not isinstance(options, list):
        return 0
    count = sum(option not in _NULLS for option in options)
    return count if count > 1 else 0

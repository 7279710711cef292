"""Write `docs/fields.md`: `python -m sun_sglang.router.protocol.fields.page > docs/fields.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from textwrap import fill, indent

from sun_sglang.contracts.template_variables import RESERVED_VARIABLES
from sun_sglang.router.protocol.fields.schemas import MAX_ALTERNATIVES, MAX_SCHEMA, MAX_SCHEMA_DEPTH, MAX_SCHEMA_TEXT
from sun_sglang.router.protocol.fields.table import (
    CHAT,
    COMPLETIONS,
    GENERATE,
    SAMPLING_PARAMS,
    Dropped,
    Forwarded,
    Refused,
    RouterOwned,
    Rule,
    Table,
)
from sun_sglang.router.protocol.fields.value_types import SHAPED
from sun_sglang.router.protocol.json_size import MAX_CONTAINERS, MAX_STRINGS
from sun_sglang.router.protocol.nesting import MAX_DEPTH

_TABLES: tuple[tuple[str, Table], ...] = (
    ("/v1/completions", COMPLETIONS),
    ("/v1/chat/completions", CHAT),
    ("/generate", GENERATE),
    ("`sampling_params` of /generate", SAMPLING_PARAMS),
)
_RESERVED = indent(fill(", ".join(f"`{name}`" for name in RESERVED_VARIABLES), 116, break_on_hyphens=False), "  ")
_HEAD = f"""# Request fields

The rule for each field that SGLang accepts, in every version that sun-sglang supports. `python -m
sun_sglang.router.protocol.fields.page` writes this page from `sun_sglang/router/protocol/fields/table.py`. A test
compares the table with SGLang's own request classes.

- **Forwarded**: the workers receive the field, within the given bounds.
- **Router's**: the router reads the field, and the workers receive a value that the router sets.
- **Needs `allow`**: refused with 400 (`field_not_allowed`), unless the topology's `router: {{allow: [...]}}` names it.
  Such a field can stop a worker that other tasks share: a hostile regular expression of 14 characters takes a second of
  the decode worker's scheduler at every step.
- **Refused**: a 400 (`reserved_field`) that names the field. A value that means no value (null, false, empty) is
  dropped.
- **Dropped**: the workers do not receive the field, and it changes no answer.

`/v1/responses` and `/v1/messages` are served as chat completions; [clients](clients.md#responses-messages-and-tokens)
lists their own fields, and SGLang's fields have the rules of `/v1/chat/completions`.

The two OpenAI endpoints convert values as SGLang does: `"12"` and `12.0` are the integer 12, `"0.7"` is a number, `1`
and `"true"` are true. /generate requires the type itself, as SGLang does.

Null means no value, except for `max_new_tokens` in `sampling_params`, where SGLang reads it as "no limit". A field that
is not listed is dropped without an error, since SGLang ignores it (`store`, `metadata`, `service_tier`,
`prompt_cache_key`). In `sampling_params` such a field is refused, since SGLang fails. A listed field that is newer than
the workers' SGLang is forwarded, and SGLang ignores it (`thinking`, `return_flat_raw_output_top_logprobs`).

- **Size**: a body has at most {MAX_CONTAINERS:,} objects and lists, and {MAX_STRINGS:,} strings and names. Over
  that, or over the topology's `max_body_mb`, the client receives 413 (`body_too_large`). The arguments of tool calls,
  which are JSON in a string, count together as a body.
- **Nesting**: a body has at most {MAX_DEPTH} levels.
- **JSON schemas** (`response_format`, `json_schema`, and `tools` where a call is required or a function is strict) have
  at most {MAX_SCHEMA_DEPTH} levels, {MAX_SCHEMA:,} names and list entries, {MAX_SCHEMA_TEXT:,} characters of names and
  of strings in lists and in `const`, and {MAX_ALTERNATIVES} alternatives in `anyOf`, `oneOf`, `allOf` and `type`
  (null, and a single alternative, do not count). `pattern` and `patternProperties` need `allow: [regex]`.
- **`min_tokens`** (`min_new_tokens`) cannot be combined with a grammar (`response_format`, `json_schema`, required or
  strict tools), nor with `stop_token_ids` of over half of the vocabulary: without any token left to sample, a worker
  ends.
- **Messages** contain text: a part of another type than `text`, `thinking`, `reasoning` or `tool_reference` is refused,
  since a worker would fetch media from any address, including its own host and its files.
- **Tool calls**: the `arguments` of a message's tool call have at most {MAX_DEPTH - 6} levels.
- **`chat_template_kwargs`** are variables of the template. Arguments of the functions that render it are refused:
{_RESERVED}.
- **Token ids** are integers from 0 to 2^31 - 1, and below the model's vocabulary.
- **`stream_options`** forwards `include_usage` and `continuous_usage_stats`.
"""


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join([_HEAD, *(line for title, table in _TABLES for line in _section(title, table))])


def _section(title: str, table: Table) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| field | rule | value, or why |"
    yield "|---|---|---|"
    for name in sorted(table, key=lambda name: (_order(table[name]), name)):
        rule = table[name]
        yield f"| `{name}` | {_rule(rule)} | {_says(rule)} |"
    yield ""


def _order(rule: Rule) -> int:
    gated = isinstance(rule, Forwarded) and bool(rule.permission)
    return 1 if gated else (Forwarded, Forwarded, RouterOwned, Refused, Dropped).index(type(rule))


def _rule(rule: Rule) -> str:
    match rule:
        case Forwarded(permission=permission) if permission:
            return f"needs `allow: [{permission}]`"
        case Forwarded():
            return "forwarded"
        case RouterOwned():
            return "router's"
        case Refused():
            return "refused"
        case Dropped():
            return "dropped"


def _says(rule: Rule) -> str:
    if isinstance(rule, Refused | Dropped):
        return rule.why
    if rule.type is SHAPED:
        return "see SGLang's API"
    each = "; or a list of one for each prompt" if isinstance(rule, Forwarded) and rule.per_prompt else ""
    return rule.type.description + each


if __name__ == "__main__":
    sys.stdout.write(page())

"""Write `docs/fields.md`: `python -m sun_sglang.router.protocol.fields.page > docs/fields.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

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
from sun_sglang.router.protocol.nesting import MAX_DEPTH

_TABLES: tuple[tuple[str, Table], ...] = (
    ("/v1/completions", COMPLETIONS),
    ("/v1/chat/completions", CHAT),
    ("/generate", GENERATE),
    ("`sampling_params` of /generate", SAMPLING_PARAMS),
)
_HEAD = f"""# Request fields

What becomes of each field that SGLang accepts, in any version that sun-sglang runs on. `python -m
sun_sglang.router.protocol.fields.page` writes this page from `sun_sglang/router/protocol/fields/table.py`; a test
compares that table with SGLang's own request classes.

- **Passed on**: the workers get it, within the bounds given.
- **Router's**: the router reads it, and the workers get a value of the router's own.
- **Needs `allow`**: refused with 400 (`field_not_allowed`), unless the topology's `router: {{allow: [...]}}` has it.
  One such field can stop a worker that others share: a hostile regular expression of 14 characters takes a second of
  the decode worker's scheduler at every step.
- **Refused**: a 400 (`reserved_field`) that names the field. A value that says nothing (null, false, empty) is dropped.
- **Dropped**: the workers do not get it, and it changes no answer.

Null is the same as no value, but for `max_new_tokens` in `sampling_params`, where SGLang takes it for "no limit". A
field that is not listed is dropped without a word, as SGLang ignores it (`store`, `metadata`, `service_tier`,
`prompt_cache_key`); in `sampling_params` it is refused, as SGLang fails there. A listed field that is newer than the
workers' SGLang is passed on and ignored there (`thinking`, `return_flat_raw_output_top_logprobs`).

- **Nesting**: a body has at most {MAX_DEPTH} levels.
- **JSON schemas** (`response_format`, `json_schema`, and `tools` where a call is required or a function is strict) have
  at most {MAX_SCHEMA_DEPTH} levels, {MAX_SCHEMA:,} names and list entries, {MAX_SCHEMA_TEXT:,} characters of names and
  of strings in lists and in `const`, and {MAX_ALTERNATIVES} alternatives in `anyOf`, `oneOf`, `allOf` and `type`
  (null, and one alone, do not count). `pattern` and `patternProperties` in them need `allow: [regex]`.
- **`min_tokens`** (`min_new_tokens`) cannot be combined with a grammar (`response_format`, `json_schema`, required or
  strict tools), nor with `stop_token_ids` of over half of the vocabulary: a worker that has no token left to sample
  from ends.
- **Messages** hold text: a part of another type than `text`, `thinking`, `reasoning` or `tool_reference` is refused,
  since a worker would fetch media from any address, its own host's and its files included.
- **Token ids** are integers from 0 to 2^31 - 1, and below the model's vocabulary.
- **`stream_options`** pass on `include_usage` and `continuous_usage_stats`.
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
            return "passed on"
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

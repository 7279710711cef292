"""Why a reply of the router may differ from a plain SGLang server's: the one table of reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class Reason(NamedTuple):
    """One intended difference.

    Attributes:
        what: the difference, for the page.
        why: its reason, for the page.
        line: regular expression that matches the whole line of each difference that it explains.
        cases: names of the cases that it occurs in.
    """

    what: str
    why: str
    line: str
    cases: tuple[str, ...]

    def explains(self, case: str, line: str) -> bool:
        """Return whether this reason covers a difference of a case."""
        return case in self.cases and re.fullmatch(self.line, line) is not None


_COMPLETIONS = "/v1/completions"
_CHAT = "/v1/chat/completions"
REASONS: tuple[Reason, ...] = (
    Reason(
        "a streamed request that is refused before its first token: status 400 instead of 200 with an `error` event",
        "clients see the refusal where they look for it",
        r"status: 400 \| 200",
        (
            "/generate too long, streamed",
            "/generate regex is wrong, streamed",
            f"{_COMPLETIONS} regex is wrong, streamed",
            f"{_CHAT} regex is wrong, streamed",
        ),
    ),
    Reason(
        "null in a field that SGLang declares without null, such as `n`, `stream`, `temperature` and "
        "`frequency_penalty`: accepted instead of 400",
        "clients send null for what their user did not set; null means no value on each optional field",
        r"status: 200 \| 400",
        (
            "/generate null stream",
            *(f"{_COMPLETIONS} null {name}" for name in ("temperature", "n", "stream")),
            *(f"{_CHAT} null {name}" for name in ("n", "stream", "frequency_penalty")),
        ),
    ),
    Reason(
        "`user` that is no text: accepted instead of 400",
        "the router drops hints that change no answer, whatever their type",
        r"status: 200 \| 400",
        (f"{_COMPLETIONS} user is a number",),
    ),
    Reason(
        "`n: 0`, `top_k: 0` with greedy decoding, negative `logprobs` and `top_logprobs`, token ids as floats: 400",
        "each field has one rule on all endpoints; SGLang ignores such a value, or reads it as another",
        r"status: 400 \| 200",
        (
            "/generate n of 0",
            "/generate top_k of 0",
            f"{_COMPLETIONS} logprobs below 0",
            f"{_CHAT} top_logprobs below 0",
            f"{_COMPLETIONS} id is a float",
        ),
    ),
    Reason(
        "`text` and `input_ids` in one `/generate` request: 400",
        "SGLang ignores `text` without a word",
        r"status: 400 \| 200",
        ("/generate both prompts",),
    ),
    Reason(
        "`min_new_tokens` with `stop_token_ids` of over half of the vocabulary: 400",
        "without any token left to sample, a worker that others share ends",
        r"status: 400 \| 200",
        ("/generate least with many stop tokens",),
    ),
    Reason(
        "`structural_tag`, `regex`, `ebnf` and `stop_regex`: 400, unless the topology allows them",
        "one hostile value stops a worker that others share ([request fields](fields.md))",
        r"status: 400 \| 200",
        (f"{_CHAT} structural tag",),
    ),
    Reason(
        "a fault of the request that SGLang answers with 500: 400",
        "a client must not repeat it",
        r"status: 400 \| 500",
        (
            "/generate parameters are a list of another length",
            f"{_CHAT} reserved template argument",
            f"{_CHAT} list as a body",
        ),
    ),
    Reason(
        "an unknown `model`: 404 instead of an answer of the one model",
        "`model` names the task",
        r"status: 404 \| 200",
        (f"{_COMPLETIONS} another model", f"{_CHAT} another model"),
    ),
    Reason(
        "JSON of another content type on `/generate`: 400",
        "the three endpoints have one rule, which SGLang has on the other two",
        r"status: 400 \| 200",
        ("/generate with a content type of its own",),
    ),
    Reason(
        "a compressed body: 415 instead of 400",
        "the error names the cause",
        r"status: 415 \| 400",
        (f"{_CHAT} compressed",),
    ),
    Reason(
        "`cached_tokens` of a new prompt with `n`: 0 for the first answer and in `usage`, instead of all but one token",
        "SGLang computes the prompt before the answers and counts it as cached for each; here the first computes it",
        r"(\[0\]\.meta_info|usage\.prompt_tokens_details)\.cached_tokens(_details)?: (0|null) \| .*",
        ("/generate long prompt and n", f"{_COMPLETIONS} long prompt and n"),
    ),
    Reason(
        "`cached_tokens_details` of `/generate` has a member `decode`",
        "it has the tokens that the decode worker found; `device` has those of the prefill worker",
        r"meta_info\.cached_tokens_details\.decode: .*",
        ("/generate same prompt again",),
    ),
)


def unexplained(found: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the differences without a reason, by case."""
    for case, lines in found.items():
        for line in lines:
            if not any(reason.explains(case, line) for reason in REASONS):
                yield f"{case}: {line}"


def unused(found: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the cases whose listed difference did not occur."""
    for reason in REASONS:
        for case in reason.cases:
            if not any(reason.explains(case, line) for line in found.get(case, ())):
                yield f"{case}: {reason.what}"

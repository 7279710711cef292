"""`POST /sun/tokens?most=LIMIT`: the number of tokens of a prompt, as a prefill worker counts it.

The body is one of SGLang's `/tokenize`. Served by SGLang workers (`worker/prompt_counter.py`) and by emulated workers
(`emulator/api/`); read by the router (`router/serving/admission/length_check.py`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

TOKEN_COUNT_PATH: Final = "/sun/tokens"


class TokenCount(NamedTuple):
    """The reply.

    Attributes:
        tokens: tokens of the prompt.
        exact: `tokens` is the exact count. Else it is certainly on the same side of the limit as the exact count.
    """

    tokens: int
    exact: bool

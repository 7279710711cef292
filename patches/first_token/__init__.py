"""Hooks by which the decode worker makes the first token of a request (`sun_sglang/contracts/first_token.py`).

The prefill worker receives the prompt without its last token. The decode worker receives the KV of these tokens, and
SGLang's own decode step runs the last token and samples the first output token. Until that step the last prompt token
stands where SGLang expects the token that the prefill worker hands over, and afterwards at the end of the prompt.

Belongs here: hooks for such requests; each leaves all other requests unchanged. Does not belong here: hooks on KV on
its way (`../transfer/`) or at rest (`../cache/`). Open `first_step.py` first.
"""

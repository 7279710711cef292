"""What a client has had of one streamed answer, and what of a repeated answer it has not. Pure.

A stream whose decode worker is lost is computed again from its start (`contracts/replay.py`). Open `answer_stream.py`
first: it takes the comment lines with tokens off the events, keeps the tokens, and drops from a repeated stream what
the first one has shown. `delta_answer.py` does so for endpoints whose events continue each other, and
`cumulative_answer.py` for /generate, whose events repeat the whole answer. `channels.py` compares without a copy.

Not here: when an answer is repeated, and where (`dispatch/failover`).
"""

"""Hooks by which another decode worker repeats the tokens of a lost answer (`sun_sglang/contracts/replay.py`).

Belongs here: what a worker does with the mark of a replay. Does not belong here: the decision to replay, and what the
client receives (`sun_sglang/router/`). Open `stream_tokens.py` first.
"""

"""Anthropic's Messages API as chat completions. Pure.

Belongs here: the translation of a request (`request.py`, with `blocks.py` for the conversation and `tools.py`), of the
answer (`reply.py`: the objects; `events.py`: the state machine of a stream), and the format of errors (`errors.py`).
First file: `request.py`.
"""

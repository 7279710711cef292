"""OpenAI's Responses API, without state, as chat completions. Pure.

Belongs here: the translation of a request (`request.py`, with `items.py` for the conversation and `tools.py`), and of
the answer (`reply.py`: the objects; `events.py`: the state machine of a stream). First file: `request.py`.
"""

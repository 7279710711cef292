"""What the translations of other APIs to chat completions have in common. Pure.

Belongs here: the interface of a translation (`interface.py`), the chat completion's answer as steps (`steps.py`) in an
order that other APIs can stream (`step_order.py`, with `object_end.py`), a stream's bytes (`event_stream.py`), and the
reading of clients' fields (`reading.py`, `field_names.py`). The APIs are `protocol/responses/` and
`protocol/messages/`.
"""

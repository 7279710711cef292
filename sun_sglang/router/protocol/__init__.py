"""Parse, check and convert the data that clients and workers send. Pure.

Belongs here: the format of requests, fields, streams and replies, and what follows from the format alone. Does not
belong here: sockets, workers, tasks' state. Imports nothing of the router but `text`.

First file: `request.py` (a client's body becomes a checked request). `fan_out.py` makes single requests of it,
`prompt_length.py` bounds its prompts, `overflow.py` words their refusal, `worker_replies.py` and `sse.py` read what
workers answer. `fields/` is the table of request fields.
"""

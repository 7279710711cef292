"""SGLang's requests, replies and errors; pure functions and data, without sockets or an engine.

Open `request_parser.py` (from a body to a request) or `replies.py` (from a generation to a reply) first. Differences
between SGLang versions belong in `reply_shapes.py` only. Does not belong here: the time that work takes
(`sun_sglang/sim/`), and sockets (`emulator/api/`).
"""

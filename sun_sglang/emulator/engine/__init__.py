"""The engines of emulated workers: one prefill or decode engine, and the bootstrap connections between them.

An engine drives a scheduler of `sun_sglang/sim/` by the real clock. Does not belong here: HTTP (`emulator/api/`), and
the rules of batching (`sun_sglang/sim/`). Open `engine.py` first.
"""

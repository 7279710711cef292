"""The engines of emulated workers: one prefill or decode engine, and the bootstrap connections between them.

An engine drives a scheduler of `sun_sglang/sim/` by the real clock. HTTP belongs into `emulator/api/`. Open `engine.py`
first.
"""

"""Benchmarks of the launcher: seconds and memory of starting workers, forked or each process on its own.

Open `startup.py` first. Not here: the start methods themselves (`sun_sglang/launch/places/local/`).
"""

"""The work of `sun bench` behind its flags.

`run.py` runs a benchmark and prints its result; open it first. `settings.py` reads the flags, `saved.py` shows earlier
results, `files.py` checks the files that a command writes. Not here: the flags (`../bench.py`), tables and live views
(`../display/`), and everything that measures (`sun_sglang.bench.serving`).
"""

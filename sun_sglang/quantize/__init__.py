"""Quantization of a checkpoint to 4-bit weights, by llmcompressor in an environment of its own.

Belongs here: the checks before any work (`preflight/`), the calibration samples (`calibration.py`), the process that
quantizes (`run.py`) and the code that runs in it (`compress/`). Does not belong here: how 4-bit weights are served
(`patches/`), or tuned against (`train/`). Open `run.py` first.

`job.py` and `compress/` are also imported in the environment of llmcompressor, which has no SGLang.
"""

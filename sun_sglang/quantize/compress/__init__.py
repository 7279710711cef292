"""The process that quantizes. It runs in the environment of llmcompressor, which lacks SGLang and the `train` extra.

Belongs here: loading, calibrating, saving and measuring. Does not belong here: checks of what the user gave
(`quantize/preflight.py`). Open `__main__.py` first.
"""

"""Serve many task-specialised LLMs of one backbone from shared prefill or decode pools, on SGLang."""

__version__ = "0.1.0"

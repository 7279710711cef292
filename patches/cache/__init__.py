"""Hooks on what a worker keeps between requests: KV and its pages, the count of cached tokens, compiled grammars.

Belongs here: a hook on SGLang's caches and on their allocators. Does not belong here: KV on its way to another worker
(`../transfer/`). Open `prompt_only_cache.py` first.
"""

"""Choose the cache of a decode pool, and reject flags that would keep the KV of answers.

Start with `choice.py`. The cache itself is a hook on SGLang: `patches/prompt_only_cache.py`.
"""

"""Choose the cache of a decode pool, and reject flags that would keep the KV of answers.

Belongs here: SGLang's rules for the cache of a decode worker, and the flags that follow from them. Does not belong
here: the cache itself, which is a hook on SGLang (`patches/cache/prompt_only_cache.py`). Open `choice.py` first.
"""

"""Hooks on the transfer of KV and of its metadata from a prefill worker to a decode worker.

Belongs here: a hook on SGLang's `disaggregation`. Does not belong here: KV at rest (`../cache/`). Open
`keyed_transfer.py` first.
"""

"""Hooks on the processes of one worker: how they start, and what they do while there is no request.

Belongs here: a hook on schedulers, detokenizers and data-parallel controllers as processes. Does not belong here: the
processes that the launcher starts (`sun_sglang/launch/places/`). Open `fork_schedulers.py` first.
"""

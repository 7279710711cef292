"""Contracts: formats and names on which two processes or two packages agree, one definition each.

Belongs here: a frozen model or a constant that one side writes and another side reads. Does not belong here: code that
computes, sends or serves such a value; it stays with its producer. Each module names its producers and its readers, and
imports nothing of `router`, `launch`, `worker` or `train`. Open `worker_card.py` first.
"""

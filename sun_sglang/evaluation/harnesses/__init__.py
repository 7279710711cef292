"""One file for each external evaluation harness; `external.py` runs those that are programs.

Belongs here: the command or the call of a harness, and the reading of its results. Does not belong here: settings and
reports that all harnesses share (`evaluation/session.py`, `evaluation/result.py`). Open `lm_eval.py` first.

The files `lm_eval.py`, `evalplus.py` and `bfcl.py` are named after the packages that they run; imports in this project
are absolute, so they hide none of them.
"""

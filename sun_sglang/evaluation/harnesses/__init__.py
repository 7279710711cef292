"""One file for each external evaluation harness; `external.py` runs those that are programs.

The files `lm_eval.py`, `evalplus.py` and `bfcl.py` are named after the packages that they run; imports in this project
are absolute, so they hide none of them.
"""

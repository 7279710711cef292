"""Accuracy of tasks: as a router serves them, by external evaluation harnesses, or offline from two checkpoints.

Belongs here: benchmarks, scores with their intervals, and the report of `sun eval`. A harness is an external
evaluation program or library (lm-eval, EvalPlus, BFCL); each has a file in `harnesses/`. Does not belong here: speed
(`bench/`). Open `session.py` first: it runs several benchmarks and makes one report. `exact_match.py` is the
evaluation without servers.
"""

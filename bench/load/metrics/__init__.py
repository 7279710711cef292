"""Records of requests -> numbers, in total and for each task. Pure.

`summary.py` has all metrics of one window; open it first. `latency.py` defines the latencies of one request,
`distribution.py` and `percentile.py` summarise many values, `goodput.py` has the service level objectives,
`fairness.py` Jain's index, and `interval.py` confidence intervals over repetitions. Keys are AIPerf's where it has
them. `docs/bench.md` has every definition.
"""

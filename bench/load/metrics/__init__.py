"""Records of requests -> numbers, in total and for each task. Pure.

`summary.py` has all metrics of one window; open it first. `sessions.py` has those of sessions of agents. `latency.py`
defines the latencies of one request, `distribution.py` and `percentile.py` summarise many values, `goodput.py` has the
service level objectives, and `fairness.py` Jain's index; `interval.py` and `repeated.py` have medians over repetitions,
and `window.py` is the measured part of a run. Keys are AIPerf's where it has them; `docs/bench.md` defines each.
"""

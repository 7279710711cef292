"""Benchmarks of training: accuracy of the tuning schemes, the cost of a step, and the throughput of packing.

Open `accuracy.py` first: it tunes models with `accuracy_runs`; `sharing.py` reuses their weights. Figures of the
results are in `bench/figures`. Not here: training itself (`sun_sglang.train`).
"""

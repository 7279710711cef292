"""Benchmarks of failover: its cost without a fault, and what a lost, drained or restarted decode worker costs.

Open `cost.py` first.
"""

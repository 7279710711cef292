"""Benchmarks of starting workers. Open `startup.py` first."""

"""Benchmarks of starting workers."""

"""Optimisation, and the launchers that shard it."""

"""Topology to processes: a pure plan, then one module per place where workers can run."""

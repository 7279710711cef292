"""Prefill-only and full fine-tuning through a two-module forward that computes what serving computes."""

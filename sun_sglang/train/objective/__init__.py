"""The two-module loss."""

"""The table of request fields and its checks."""

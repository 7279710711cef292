"""Sockets to workers."""

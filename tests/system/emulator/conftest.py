"""Emulated workers in the process of the tests, and a client."""

from __future__ import annotations

from tests.support.emulator import client, start

__all__ = ["client", "start"]

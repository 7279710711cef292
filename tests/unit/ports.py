"""Ports for processes that are started with one: none is given twice, or to an outgoing connection meanwhile."""

from __future__ import annotations

from sun_sglang.launch.processes import free_ports

PORTS = free_ports()

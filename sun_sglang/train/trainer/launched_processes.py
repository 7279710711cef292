"""The processes that train together, by the variables that torchrun and `accelerate launch` set."""

from __future__ import annotations

import os

import torch


def world_size() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Return whether this process is the one that writes files and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def are_connected() -> bool:
    """Return whether this process can exchange data with others that train with it."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def wait_for_all() -> None:
    """Wait until every process that trains together is here."""
    if are_connected():
        torch.distributed.barrier()

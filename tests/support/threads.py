"""One thread of computation for each process of the tests."""

from __future__ import annotations

import os


def compute_in_one_thread() -> None:
    """Set OpenMP's number of threads, unless the shell sets it; call before torch is imported.

    `make test` has more processes than cores. OpenMP's threads wait for each other after every operation: where one of
    them has no core, a training of two seconds takes half a minute.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")

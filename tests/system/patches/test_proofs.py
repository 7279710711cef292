"""Proofs of hooks, from processes that a child started."""

from __future__ import annotations

import subprocess
import sys

from sun_sglang.patches.report_patches import (
    ProofFile,
)


def test_proofs_of_processes_that_a_child_started_reach_the_server() -> None:
    append = (
        "import os, sys; from sun_sglang.patches.report_patches import *;"
        "append_proof(sys.argv[1], Proof(pid=os.getpid(), patches=()))"
    )
    controller = "import subprocess, sys; [subprocess.run([sys.executable, *sys.argv[1:]], check=True) for _ in 'ab']"
    file = ProofFile()
    subprocess.run([sys.executable, "-c", controller, "-c", append, file.path], check=True)
    assert len({proof.pid for proof in file.read()}) == 2
    file.close()

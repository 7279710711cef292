"""Stop every deployment below a directory when standard input ends: then all processes that hold it have ended.

A deployment is detached: nothing else would stop it where pytest is killed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sun_sglang.bench.processes import run_sun
from sun_sglang.launch.state import read_state

# a test may supervise a deployment in the test process itself, which then must not be stopped
tests = os.getppid()
sys.stdin.read()
for file in Path(sys.argv[1]).rglob("state.json"):
    state = read_state(file.parent)
    if state is not None and state.pid != tests and state.alive:
        run_sun("stop", "--run-dir", str(file.parent), "--now", timeout=120).check_returncode()

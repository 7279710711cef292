"""Which speculative algorithms the installed SGLang combines with a decode cache."""

from __future__ import annotations

import json
import subprocess
import sys

# A process of its own: SGLang's checks set what they decide in the process that asks them.
ASK = """
import json
from sun_sglang.worker import prepare_process
prepare_process()
from sun_sglang.launch.decode_cache import speculative_with_cache
print(json.dumps(speculative_with_cache()))
"""


def test_speculative_algorithms_beside_the_decode_cache_are_told_apart_by_sglangs_own_checks() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=120, check=True)
    taken = set(json.loads(done.stdout.splitlines()[-1]))
    assert "DSPARK" in taken
    assert not taken & {"NGRAM", "STANDALONE", "DFLASH", "FROZEN_KV_MTP"}
    assert ("EAGLE" in taken) == ("NEXTN" in taken), "one algorithm under two names"

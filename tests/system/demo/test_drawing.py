from __future__ import annotations

import subprocess
import sys
from itertools import islice

from sun_sglang.demo.mixture import MIXTURE, stream
from sun_sglang.demo.tasks import TASKS
from sun_sglang.train.data.examples import draw


def test_drawing_repeats_in_another_process() -> None:
    code = (
        "from sun_sglang.train.data.examples import draw\n"
        "from sun_sglang.demo.tasks import TASKS\n"
        "from sun_sglang.demo.mixture import MIXTURE, stream\n"
        "from itertools import islice, pairwise\n"
        "print(draw(TASKS['tool'], 'train', 20, 5), list(islice(stream(MIXTURE, 5, (), 0), 20)))"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = f"{draw(TASKS['tool'], 'train', 20, 5)} {list(islice(stream(MIXTURE, 5, (), 0), 20))}\n"
    assert elsewhere == here

"""Run `sun train` as `python -m sun_sglang.train RECIPE.yaml`, as `torchrun` and `accelerate launch` start it."""

from __future__ import annotations

import sys

from sun_sglang.cli.main import main

main(["train", *sys.argv[1:]])

"""`python -m sun_sglang.cli`: the `sun` command without its script."""

from sun_sglang.cli.main import main

main()

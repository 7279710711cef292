"""Check another SGLang version: `make engine-check VERSION=0.5.24`.

cpu_list      the pins of `requirements/engine-cpu.txt`, and where they deviate from SGLang on purpose
derive        those pins, moved to what another SGLang version requires (pure)
registry      what the package registry offers, asked through pip
environment   a virtual environment with the derived pins
checks        the state of every hook, and the tests on real workers, in that environment
report        the outcome and what changed, as tables, Markdown and JSON (pure)
"""

"""Check another SGLang version: `make engine-check VERSION=0.5.24`.

    __main__      the command; open this first
    cpu_list      the pins of `requirements/engine-cpu.txt`, and their deliberate deviations from SGLang (pure)
    releases      releases of packages and their requirements (pure)
    derive        derives the pins for another SGLang version (pure)
    derivation    the derived pins and what changed (pure)
    registry      the package registry, queried through pip
    environment   a virtual environment with the derived pins
    checks        the state of every hook, and the tests on real workers, in that environment
    report        the outcome and the changes, as tables, Markdown and JSON (pure)

Belongs here: the decision whether this package works on an SGLang version. Does not belong here: what a hook does on a
version, which its file in `patches/` states.
"""

"""Latency and throughput with 4-bit weights on a CPU, as in Table 4 of SUN's paper.

    model.py      a random decoder and its prefill module, in bfloat16 and in 4 bits
    systems.py    the systems that are compared, and the order in which they are measured
    load.py       the requests of one cell: a system at a concurrency
    __main__.py   the command

`python -m sun_sglang.bench.four_bit` makes the models, launches `configs/four_bit/systems.yaml`, measures, and writes
`bench/results/four_bit.json`. Open `systems.py` first. Accuracy is not measured here: random weights answer nothing.
"""

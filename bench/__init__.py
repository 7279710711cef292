"""Benchmarks, the demo and the checks of an engine or a GPU, installed as `sun_sglang.bench`.

`sun bench` is `load/`, the load generator, and `serving/`, what it measures; open `serving/run.py` first. The
project's own benchmarks write one `Report` each: open `report.py`. `router/`, `training/` and `launch/` hold them,
`figures/` the figures that are drawn from their reports, `results/` the committed reports, `gpu_check/` and
`engine_check/` the checks of a machine and of an SGLang version. `processes.py`, `polling.py` and `client.py` serve all
of them, and the tests. Not here: code that serves or trains.

To add a benchmark: write `bench/ROOM/NAME.py` with a `main` that makes `Run`s, passes them to
`new_report("ROOM_NAME", ...)` with the unit of each quantity, and writes `bench/results/ROOM_NAME.json` with
`write_report`. To add a figure: see `figures/README.md`.
"""

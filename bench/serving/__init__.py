"""`sun bench` without its flags and tables: what is measured, the runs of a load on it, and the file of the result.

`run.py` measures one target once; open it first. `campaign/` has all runs of a benchmark: systems in turn, points of a
grid, repetitions, and the search for the highest rate. `systems/` starts what is measured, `peers/` plain SGLang
servers. `settings.py` are the settings, `targets/` what is measured, `preflight.py` one short request of each task
before the load, `account.py` turns the records of a run into its report, `verdict.py` decides whether the report is
valid. `run_report.py` is the report of one run, `comparison.py` has the numbers over repetitions and the ratios of
systems, `problems.py` what is wrong with a whole result, and `result.py` is the JSON file. `report/` shows saved
results as one HTML page. The load generator itself is `bench/load/`; the command and its live view are `cli/bench.py`,
`cli/benchmark/` and `cli/display/`. `docs/bench.md` explains all of it.
"""

"""Accuracy of tasks as they are served, by the field's own harnesses against a running router.

benchmark    what is asked of whom: `math=gsm8k`
endpoint     the router, and whether it serves the tasks
lm_eval       lm-eval, through its Python API
evalplus     EvalPlus, and
bfcl         BFCL, by their own commands            (external: found, run, held to their exit code)
result       what each found, alike                 (interval: how sure that is)
session      several benchmarks, one report
table        results in a terminal
"""

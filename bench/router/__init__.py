"""Benchmarks of the router, each with its own zero-cost or emulated workers; none needs SGLang.

`speed.py` compares it with other load balancers (`peers`, `load_client`, `null_worker`), `policies.py` compares decode
policies (`policy_cluster`), `soak.py` runs it for a long time under faults (`soak_deployment`, `soak_faults`). Not
here: tests, and benchmarks of real workers.
"""

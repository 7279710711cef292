"""Benchmarks of the router, with zero-cost or emulated workers; one with the real workers of a running deployment.

`speed.py` compares it with other load balancers (`peers`, `load_client`, `null_worker`), `policies.py` compares decode
policies (`policy_cluster`), `failover_cost.py` measures what failover costs while no worker is lost, `soak.py` runs it
for a long time under faults (`soak_deployment`, `soak_faults`), and `shared_prompt.py` measures several answers to one
prompt on real workers. Not here: tests.
"""

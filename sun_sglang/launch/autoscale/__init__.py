"""Carry out the decisions of decode pools that size themselves: start, drain and stop their workers.

`settings.py` makes the policy's settings from the topology, `observed.py` what the policy sees from the router's report
(both pure), `transitions.py` keeps the changes under way, and `pool_scaler.py` acts. The policy itself is in
`sun_sglang/autoscaling`.
"""

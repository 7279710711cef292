"""How many workers a decode pool needs, and which of them start, stay or stop. Pure: the caller passes the time.

Open `policy.py` first: `Autoscaler` turns the load that clients offer into a decision. `demand.py` measures that load,
`step_cost.py` has the seconds of a decode step, and corrects or learns them from what workers measure, and `sizing.py`
computes the number of workers. The launcher carries decisions out (`launch/autoscale`), and the simulator of `sun plan`
uses the same policy in virtual time.
"""

"""Planning a deployment: traffic and cost models become numbers of workers, in virtual time. Pure, without a clock.

    system      pools, tasks and their costs; the serving systems that are compared
    traffic     one request of a load
    simulator   plays a load against a system: the router's own code, and the schedulers of emulated workers
    workers     a simulated worker, and what the router knows of it
    outcome     latencies, objectives, and why requests miss them
    digest      percentiles of millions of values in little memory
    autoscale   a decode pool that sizes itself, in virtual time
    sizing      the fewest workers that meet the objectives
    step_times  cost models of GPUs and models that AIConfigurator knows
    calibrate   a cost model corrected by one measured point

Open `simulator.py` first. The generators of loads are in `bench/load`, which this package does not import.
"""

"""Full modules that take turns on prefill workers, without a GPU.

`turns` compares orders of modules on one worker, in virtual time: `prefill_load` makes the requests, `policies` has the
other orders, and `one_worker` runs a load.
"""

"""The order in which full modules take turns on one prefill worker. Pure: no clock, no torch, no SGLang.

    policy   which module's requests form the next batch
    pace     what the worker measured: seconds of a change and of a batch, prompt tokens a second
    turns    the state of one worker: the loaded module, its pace, and its changes so far

SGLang's scheduler hook (`patches/modules/`), the simulated worker (`sun_sglang/sim/`) and the emulated one call it.
Equal calls give equal answers, so one rank may decide for all. Open `policy.py` first.
"""

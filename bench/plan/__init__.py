"""Validation of `sun plan`'s simulator, in virtual time but for `emulated`.

Open `papers.py` first.

    papers        the SUN paper's figure 3 and table 4
    prefillshare  agents over one context: PrefillShare's figure 3, and stored real-time runs
    emulated      emulated workers in real time, under the same load
    scale         a thousand tasks on a thousand GPUs
    autoscaling   the policy of a decode pool that sizes itself, against others
"""

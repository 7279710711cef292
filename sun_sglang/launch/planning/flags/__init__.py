"""SGLang's flags: which there are, their defaults in this project, and one worker's command line.

Belongs here: reading, checking and writing flags of SGLang. Does not belong here: values that follow from the machine
(`../hardware/`) or from a pool's cache (`../decode_cache/`). Open `engine_flags.py` first.
"""

"""Files of the user: paths in the files that users write, private files, and a cache of this user.

Open `local_path.py` first. Does not belong here: what a file means (`sun_sglang/topology_file.py`, `contracts/`).
"""

"""Files of the user: paths in users' files, private files, files replaced as a whole, and a cache of this user.

Open `local_path.py` first. Does not belong here: what a file means (`sun_sglang/topology_file.py`, `contracts/`).
"""

"""Workers on the machines of a Ray cluster: one placement group and one detached actor for each worker.

Open `place.py` first. `host/` runs on the machine of a worker, all other files on the launcher's; `room.py` is
pure. Nothing here imports Ray before a place is opened. Not here: the restart policy (`launch/supervision`) and traffic
(the router's probes), for which Ray's own are not used.
"""

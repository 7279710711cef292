"""The control socket: commands to a running launcher, from its own user alone.

The launcher listens on the Unix socket `control.sock` in its run directory and speaks HTTP with JSON there. `server.py`
listens and checks who connects; `client.py` connects, for the `sun` command. Neither knows a command: a package that
acts on the deployment, such as `launch/rolling_restart`, brings its routes and the functions that call them.
"""

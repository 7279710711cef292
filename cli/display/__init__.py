"""The output of commands on a terminal. No module here is a command.

`deployment_view.py` renders a deployment's state, `launch_display.py` shows a deployment during `sun launch`, and
`display_thread.py` writes without waiting for the reader. Open `launch_display.py` first. Not here: the report that
`--json` prints, which each command makes.
"""

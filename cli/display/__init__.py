"""What commands show in a terminal. No module here is a command.

`deployment_view.py` renders a deployment's state, `launch_display.py` is what `sun launch` shows, and
`display_thread.py` writes without waiting for the reader.
"""

"""The `sun` command: one command per file, named after the command.

Open `main.py` first: it finds the commands. A command imports what is heavy inside its functions, so that `sun --help`
stays fast. `display/` holds the output of commands on a terminal. Not here: work beyond reading arguments and showing
results (`sun_sglang.launch`, `train`, `evaluation`).
"""

"""The `sun` command: one command per file, heavy imports inside the command."""

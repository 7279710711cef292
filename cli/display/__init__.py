"""How a terminal shows a deployment: no module here is a command."""

"""Keep the processes of a deployment running: restarts, readiness, and the end."""

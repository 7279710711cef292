"""The emulated worker's HTTP server."""

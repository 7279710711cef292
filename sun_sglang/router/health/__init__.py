"""Background loops over the workers."""

"""One module for each evaluation harness."""

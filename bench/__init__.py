"""Load generation, measurements and reports."""

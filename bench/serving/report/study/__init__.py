"""Results of one or more files as one study: systems, points of load, and the numbers of each system at each point."""

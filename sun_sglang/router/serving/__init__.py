"""One client request from its body to its last byte."""

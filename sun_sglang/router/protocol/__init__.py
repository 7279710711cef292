"""What clients and workers say, read and written."""

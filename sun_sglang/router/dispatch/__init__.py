"""The two legs of one request."""

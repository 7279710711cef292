"""Which cache a decode pool gets."""

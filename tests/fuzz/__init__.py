"""A seeded generator of what no client should send, against a running replica."""

"""Several processes that are one replica."""

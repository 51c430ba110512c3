"""The command line; it begins in `main`."""

"""Several processes on one port: workers, and a parent that starts, watches and restarts them and answers operators."""

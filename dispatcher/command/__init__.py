"""The command line: serve, demo, tail, config; `main` is where it begins."""

"""The recipes of docs/clients.md, run as they stand there."""

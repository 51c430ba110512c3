"""Pushes Kafka records to SSE and WebSocket subscribers, and commits only what was dispatched."""

__version__ = "0.2.0"

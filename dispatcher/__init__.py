"""Pushes Kafka records to SSE and WebSocket subscribers, and commits only what was dispatched."""

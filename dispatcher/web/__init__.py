"""The edge that clients and operators connect to: SSE, WebSocket, operations, and the server."""

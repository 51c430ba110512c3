"""What clients and operators connect to: SSE, WebSocket, operations, and the server that carries them."""

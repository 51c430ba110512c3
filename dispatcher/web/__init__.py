"""The faces: SSE, WebSocket, operations, and the server that carries them."""

"""Wire formats: records and control events become the bytes of SSE and of WebSocket messages."""

"""Wire formats: encode records and control events as bytes of SSE or of WebSocket messages."""

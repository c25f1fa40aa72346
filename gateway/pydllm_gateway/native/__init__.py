"""POST /generate in the native shapes of SGLang and Diffulex: fields as gRPC requests, replies and streams."""

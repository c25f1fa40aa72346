"""Bodies of OpenAI's endpoints as gRPC requests."""

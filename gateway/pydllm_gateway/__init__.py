"""The REST gateway of pydllm. It speaks gRPC to the engine and imports nothing of it.

Nothing is served from here yet: this release offers gRPC (see docs/grpc.md).
"""

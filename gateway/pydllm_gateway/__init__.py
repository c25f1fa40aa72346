"""The REST gateway of pydllm: OpenAI's endpoints and the native ones over HTTP, in front of an engine over gRPC.

It imports nothing of the engine's package and runs where that is not installed. `pydllm_gateway.server.Gateway` is a
running server, `pydllm_gateway.app.create_app` the ASGI application alone.
"""

"""The gRPC server: pydllm.v1 services, health and reflection on grpc.aio."""

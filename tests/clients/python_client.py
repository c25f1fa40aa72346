"""A client of the committed stubs alone: streams one answer. Usage: python_client.py HOST:PORT PROMPT"""

from __future__ import annotations

import sys

import grpc
from pydllm_proto.v1 import generation_service_pb2, generation_service_pb2_grpc, types_pb2


def stream(address: str, prompt: str) -> str:
    """The concatenated final text; raises grpc.RpcError."""
    request = generation_service_pb2.StreamGenerateRequest(
        request=generation_service_pb2.GenerateRequest(
            chat=types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role="user", content=prompt)])
        )
    )
    with grpc.insecure_channel(address) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        return "".join(message.block_appended.text for message in stub.StreamGenerate(request, timeout=60))


if __name__ == "__main__":
    print(stream(sys.argv[1], sys.argv[2]))

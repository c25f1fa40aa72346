"""The committed stubs: an import package of their own whose descriptors keep the names of the .proto files."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

from process import ROOT, environment
from pydllm_proto.v1 import (
    admin_service_pb2,
    generation_service_pb2,
    metrics_service_pb2,
    model_service_pb2,
    tokenizer_service_pb2,
    types_pb2,
)

MODULES = (
    admin_service_pb2,
    generation_service_pb2,
    metrics_service_pb2,
    model_service_pb2,
    tokenizer_service_pb2,
    types_pb2,
)


def test_descriptors_are_named_after_the_proto_files() -> None:
    names = {module.DESCRIPTOR.name for module in MODULES}
    files = Path(ROOT / "proto").rglob("*.proto")
    assert names == {str(path.relative_to(ROOT / "proto")) for path in files}


def test_messages_can_be_pickled_under_their_python_module() -> None:
    message = types_pb2.TokenIds(ids=[1, 2])
    assert type(message).__module__ == "pydllm_proto.v1.types_pb2"
    assert pickle.loads(pickle.dumps(message)) == message


def test_the_stubs_import_nothing_of_the_engine() -> None:
    code = (
        "import sys; import pydllm_proto.v1.generation_service_pb2_grpc, pydllm_proto.v1.admin_service_pb2_grpc;"
        "print([name for name in sys.modules if name == 'pydllm' or name.startswith('pydllm.')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), check=True)
    assert out.stdout.strip() == b"[]"

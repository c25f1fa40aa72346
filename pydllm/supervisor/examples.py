"""The ready line, and lines for curl, the openai client and gRPC clients that can be pasted as they are."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from pydllm.supervisor.config import API_KEY_VARIABLE
from pydllm.supervisor.ports import authority

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydllm.supervisor.child import Event
    from pydllm.supervisor.config import ServeConfig

_QUESTION = {"role": "user", "content": "Solve: 12 + 30."}
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a client on this machine calls them


def ready_line(config: ServeConfig, events: Mapping[str, Event]) -> str:
    """One line for stdout: the model and the addresses."""
    secure = "s" if config.tls_cert else ""
    urls = [f"grpc{secure}://{authority(config.host, _port(events, 'engine', 'grpc_port'))}"]
    if "gateway" in events:
        urls.insert(0, f"http{secure}://{authority(config.host, _port(events, 'gateway', 'port'))}")
    return f"pydllm ready: model {_model(events)} on {' and '.join(urls)}"


def examples(config: ServeConfig, events: Mapping[str, Event]) -> str:
    """Several lines for stderr."""
    host = _ANY.get(config.host, config.host)
    lines = []
    if "gateway" in events:
        http = authority(host, _port(events, "gateway", "port"))
        lines += [_curl(config, http, _model(events)), _openai(config, http, _model(events))]
    grpc = authority(host, _port(events, "engine", "grpc_port"))
    lines += [_grpcurl(config, grpc), _grpc(config, grpc), *_notes(config)]
    return "\n".join(f"  {line}" for line in lines)


def _curl(config: ServeConfig, address: str, model: str) -> str:
    options = ["-H 'Content-Type: application/json'"]
    if config.tls_cert:
        options.append(f"--cacert {shlex.quote(config.tls_cert)}")
    if config.tls_client_ca:
        options.append("--cert client.pem --key client-key.pem")
    if config.api_keys:
        options.append(f'-H "Authorization: Bearer ${API_KEY_VARIABLE}"')
    body = shlex.quote(json.dumps({"model": model, "messages": [_QUESTION]}))
    return f"curl {_http(config)}://{address}/v1/chat/completions {' '.join(options)} \\\n    -d {body}"


def _openai(config: ServeConfig, address: str, model: str) -> str:
    key = f'os.environ["{API_KEY_VARIABLE}"]' if config.api_keys else '"none"'
    client = f'base_url="{_http(config)}://{address}/v1", api_key={key}'
    if config.tls_client_ca:
        client += ', http_client=openai.DefaultHttpxClient(cert=("client.pem", "client-key.pem"))'
    code = (
        f"import openai, os; print(openai.OpenAI({client}).chat.completions.create("
        f"model={json.dumps(model)}, messages=[{json.dumps(_QUESTION)}]).choices[0].message.content)"
    )
    trust = f"SSL_CERT_FILE={shlex.quote(config.tls_cert)} " if config.tls_cert else ""
    return f"{trust}python -c {shlex.quote(code)}"


def _grpcurl(config: ServeConfig, address: str) -> str:
    options = ["-plaintext"]
    if config.tls_cert:
        options = [f"-cacert {shlex.quote(config.tls_cert)}"]
    if config.tls_client_ca:
        options.append("-cert client.pem -key client-key.pem")
    if config.api_keys:
        options.append(f'-H "authorization: Bearer ${API_KEY_VARIABLE}"')
    body = shlex.quote(json.dumps({"chat": {"messages": [_QUESTION]}}))
    return f"grpcurl {' '.join(options)} -d {body} \\\n    {address} pydllm.v1.GenerationService/Generate"


def _grpc(config: ServeConfig, address: str) -> str:
    channel = f'grpc.insecure_channel("{address}")'
    if config.tls_cert:
        files = [config.tls_cert, *(["client-key.pem", "client.pem"] if config.tls_client_ca else [])]
        pems = ", ".join(f'open({json.dumps(file)}, "rb").read()' for file in files)
        channel = f'grpc.secure_channel("{address}", grpc.ssl_channel_credentials({pems}))'
    key = f', metadata=[("authorization", "Bearer " + os.environ["{API_KEY_VARIABLE}"])]' if config.api_keys else ""
    code = (
        "import grpc, os; from pydllm_proto.v1 import generation_service_pb2 as g, generation_service_pb2_grpc as s, "
        f"types_pb2 as t; print(s.GenerationServiceStub({channel}).Generate(g.GenerateRequest(chat=t.ChatInput("
        f'messages=[t.ChatMessage(role="user", content="{_QUESTION["content"]}")])){key}).candidates[0].text)'
    )
    return f"python -c {shlex.quote(code)}"


def _notes(config: ServeConfig) -> list[str]:
    notes = []
    if config.api_keys:
        notes.append(f"# {API_KEY_VARIABLE}: one of the API keys, in the environment of the client")
    if config.tls_cert:
        notes.append(
            "# a certificate signed by an authority: name the authority's file instead; by a public one: leave it out"
        )
    if config.tls_client_ca:
        notes.append("# client.pem, client-key.pem: the client's own certificate and key")
    return notes


def _http(config: ServeConfig) -> str:
    return "https" if config.tls_cert else "http"


def _model(events: Mapping[str, Event]) -> str:
    return str(events["engine"].get("model"))


def _port(events: Mapping[str, Event], child: str, key: str) -> int:
    port: Any = events[child].get(key)
    return int(port or 0)

"""ModelService: what is served. Adapters are not available."""

# ruff: noqa: N802, ARG002 - gRPC names the methods and passes the context

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydllm_proto.v1 import model_service_pb2 as pb
from pydllm_proto.v1 import model_service_pb2_grpc as pb_grpc

from pydllm.errors import UnsupportedError

if TYPE_CHECKING:
    from pydllm.engine.facts import ModelFacts
    from pydllm.server.rpc import Context
    from pydllm.server.served import Backend, Served

_ATTENTION = {"full": "bidirectional", "block_causal": "block_causal"}
"""The core's name -> attention_pattern."""
_NO_ADAPTERS = "this server does not load LoRA adapters"


class ModelService(pb_grpc.ModelServiceServicer):
    """pydllm.v1.ModelService. Raises the errors of pydllm.errors; the guard turns them into statuses."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """The one served model."""
        return pb.ListModelsResponse(models=[_summary(self._backend.model(""))])

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Context) -> pb.GetModelInfoResponse:
        """Facts about the model."""
        return _info(self._backend.model(request.model))

    async def LoadLoraAdapter(self, request: pb.LoadLoraAdapterRequest, context: Context) -> pb.LoadLoraAdapterResponse:
        """Not available."""
        raise UnsupportedError("name", _NO_ADAPTERS)

    async def UnloadLoraAdapter(
        self, request: pb.UnloadLoraAdapterRequest, context: Context
    ) -> pb.UnloadLoraAdapterResponse:
        """Not available."""
        raise UnsupportedError("name", _NO_ADAPTERS)


def _summary(served: Served) -> pb.ModelSummary:
    return pb.ModelSummary(name=served.name, loaded=served.loaded, max_context_length=served.max_context_length)


def _info(served: Served) -> pb.GetModelInfoResponse:
    facts, model = served.engine.facts, served.engine.loaded.info
    return pb.GetModelInfoResponse(
        summary=_summary(served),
        architecture=facts.architecture,
        source=served.source,
        revision=served.revision,
        dtype=model.weight_dtype,
        vocab_size=facts.vocab_size,
        eos_token_ids=facts.eos_token_ids,
        parameter_count=model.parameter_count,
        diffusion=_diffusion(served),
        has_chat_template=served.chat_template is not None,
        default_sampling_json=json.dumps(facts.default_sampling),
    )


def _diffusion(served: Served) -> pb.DiffusionInfo:
    facts, model = served.engine.facts, served.engine.loaded.info
    return pb.DiffusionInfo(
        algorithms=facts.algorithms,
        default_block_length=_default_block_length(facts),
        block_lengths=[model.block_length] if model.block_length else [],
        mask_token_id=facts.mask_token_id,
        attention_pattern=_ATTENTION[model.attention],
        supports_edits=facts.edits,
        params=[
            pb.AlgorithmParam(algorithm=algorithm, name=name, default_value=value)
            for (algorithm, name), value in facts.default_params.items()
        ],
    )


def _default_block_length(facts: ModelFacts) -> int:
    """That of the default algorithm, else the model's; 0 where neither knows blocks."""
    own = facts.default_params.get((facts.default_algorithm, "block_length"))
    return facts.defaults.block_length or 0 if own is None else int(own)

"""Running a model: options, loading, and the engine for asyncio (AsyncEngine) or threads (Engine).

Token ids go in, core events come out; text is the business of pydllm.text and pydllm.llm.
"""

from pydllm.engine.aio import AsyncEngine, AsyncGeneration
from pydllm.engine.config import EngineConfig
from pydllm.engine.facts import ModelFacts, find_algorithm
from pydllm.engine.loader import FoundModel, LoadedModel, Progress, find, load, start
from pydllm.engine.prepare import PreparedRequest, prepare
from pydllm.engine.threaded import Engine, Generation

__all__ = [
    "AsyncEngine",
    "AsyncGeneration",
    "Engine",
    "EngineConfig",
    "FoundModel",
    "Generation",
    "LoadedModel",
    "ModelFacts",
    "PreparedRequest",
    "Progress",
    "find",
    "find_algorithm",
    "load",
    "prepare",
    "start",
]

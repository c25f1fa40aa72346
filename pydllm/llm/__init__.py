"""Text in, text out: LLM for ordinary code, AsyncLLM for asyncio."""

from pydllm.llm.asynchronous import AsyncLLM
from pydllm.llm.synchronous import LLM

__all__ = ["LLM", "AsyncLLM"]

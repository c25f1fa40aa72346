"""Hugging Face checkpoint directories, read strictly: config, token ids, weight shards.

No code of a checkpoint ever runs.
"""

from pydllm.checkpoint.checkpoint import Checkpoint, open_checkpoint
from pydllm.checkpoint.generation import GenerationDefaults
from pydllm.checkpoint.resolve import resolve

__all__ = ["Checkpoint", "GenerationDefaults", "open_checkpoint", "resolve"]

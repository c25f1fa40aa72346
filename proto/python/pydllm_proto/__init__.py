"""Generated from proto/pydllm/v1 by proto/generate.sh. Knows nothing of the engine."""

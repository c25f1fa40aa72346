"""What `pydllm chat` and `pydllm generate --watch` draw: rendering, settings, commands and where answers come from."""

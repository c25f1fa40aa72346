"""The process behind `pydllm serve`: it starts the engine and the gateway, starts them again when they die, and drains
both. It serves nothing itself and imports neither of them.
"""

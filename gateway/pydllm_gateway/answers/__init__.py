"""Replies of the engine as OpenAI's bodies and chunks."""

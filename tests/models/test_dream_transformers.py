"""Dream against transformers' Qwen2 with a bidirectional mask."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from first_logits import FirstLogits, relative_error
from transformers_models import logits_of, random_model, write_checkpoint

MASK = 301
PROMPTS = [[5, 300, 17, 8], [88, 3, 3, 120, 7, 250, 41, 9, 13]]
GENERATED = 7


def fields(**changes: Any) -> dict[str, Any]:
    """config.json as the published models write it, with an odd vocabulary and small sizes."""
    return {
        "architectures": ["DreamModel"],
        "attention_dropout": 0.0,
        "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
        "bos_token_id": 300,
        "eos_token_id": 300,
        "hidden_act": "silu",
        "hidden_size": 60,
        "initializer_range": 0.02,
        "intermediate_size": 83,
        "mask_token_id": MASK,
        "max_position_embeddings": 256,
        "max_window_layers": 28,
        "model_type": "Dream",
        "num_attention_heads": 6,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 300,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.46.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 303,
        **changes,
    }


def qwen2(values: dict[str, Any]) -> Any:
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads")
    config = transformers.Qwen2Config(
        **{name: values[name] for name in names},
        vocab_size=values["vocab_size"],
        rms_norm_eps=values["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": values["rope_theta"]},
        tie_word_embeddings=values["tie_word_embeddings"],
        max_position_embeddings=values["max_position_embeddings"],
    )
    return random_model(transformers.Qwen2ForCausalLM, config)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 2e-6), ("float16", 1e-4), ("bfloat16", 0.035)])
@pytest.mark.parametrize("kv_heads", [6, 2, 1])
def test_logits_match_qwen2(tmp_path: Path, shards: int, dtype: str, limit: float, kv_heads: int) -> None:
    values = fields(num_key_value_heads=kv_heads)
    model = qwen2(values)
    reader = FirstLogits(write_checkpoint(tmp_path, model, values, shards=shards), dtype=dtype)
    for prompt, logits in zip(PROMPTS, reader.of(PROMPTS, GENERATED), strict=True):
        expected = logits_of(model, prompt + [MASK] * GENERATED)
        assert logits.shape == (len(prompt) + GENERATED, 303)
        assert relative_error(logits, expected) < limit

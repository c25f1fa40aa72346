"""pydllm.checkpoint: directories to Checkpoint, and every way they can be refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_writer import (
    LLADA_8B,
    TINY,
    tiny_tensors,
    write_config,
    write_json,
    write_sharded,
    write_tiny,
)
from safetensors.numpy import save_file

from pydllm.checkpoint import Checkpoint, open_checkpoint, resolve
from pydllm.checkpoint.config import model_config, read_config, refuse_unknown, stored_dtype
from pydllm.errors import CheckpointError

GOLDEN = Path(__file__).parent.parent / "golden"


def refusal(directory: Path, **options: Any) -> str:
    """The one line with which a directory is refused."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(directory, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert str(directory) not in message
    return message


def config_of(directory: Path, **changes: Any) -> dict[str, Any]:
    return dict(open_checkpoint(write_tiny(directory, **changes)).config)


# --- what is understood ---


def test_golden_checkpoint_is_described() -> None:
    checkpoint = open_checkpoint(GOLDEN / "checkpoints" / "llada-tiny")
    assert checkpoint == Checkpoint(
        path=GOLDEN / "checkpoints" / "llada-tiny",
        name="llada-tiny",
        architecture="LLaDAModelLM",
        config={
            "architecture": "LLaDAModelLM",
            "vocab_size": 352,
            "hidden_size": 64,
            "num_layers": 3,
            "num_heads": 4,
            "num_kv_heads": 4,
            "head_dim": 16,
            "intermediate_size": 160,
            "max_positions": 1024,
            "rope_theta": 500000.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "attention_bias": False,
            "linear_bias": False,
            "logit_shift": False,
            "qk_norm": False,
            "rotary_dim": 0,
            "block_length": 0,
            "moe": {},
            "dtype": "float32",
        },
        shards=[str(GOLDEN / "checkpoints" / "llada-tiny" / "model.safetensors")],
        dtype="float32",
        mask_token_id=332,
        eos_token_ids=(331,),
        pad_token_id=331,
        bos_token_id=330,
        generation_defaults=checkpoint.generation_defaults,
        has_tokenizer=True,
    )
    assert checkpoint.vocab_size == 352
    assert checkpoint.max_positions == 1024


def test_demo_model_suggests_its_generation_defaults() -> None:
    import pydllm.demo_model

    checkpoint = open_checkpoint(Path(next(iter(pydllm.demo_model.__path__))))
    assert checkpoint.dtype == "bfloat16"
    assert checkpoint.eos_token_ids == (0, 5)
    assert checkpoint.mask_token_id == 1
    assert checkpoint.generation_defaults.max_new_tokens == 96
    assert checkpoint.generation_defaults.block_length == 32
    assert checkpoint.generation_defaults.ignored_fields == ()


def test_published_8b_config_passes(tmp_path: Path) -> None:
    write_config(tmp_path, LLADA_8B)
    fields = read_config(tmp_path)
    config = model_config(fields)
    assert stored_dtype(fields) == "bfloat16"
    for name in ("eos_token_id", "pad_token_id", "mask_token_id"):
        fields.get(name)
    refuse_unknown(fields)
    assert config["head_dim"] == 128
    assert config["intermediate_size"] == 12288
    assert config["num_kv_heads"] == 32


def test_null_sizes_follow_the_original_defaults(tmp_path: Path) -> None:
    write_config(tmp_path, LLADA_8B, mlp_hidden_size=None, n_kv_heads=None, embedding_size=None)
    config = model_config(read_config(tmp_path))
    assert config["intermediate_size"] == 4 * 4096
    assert config["num_kv_heads"] == 32
    assert config["vocab_size"] == 126464


@pytest.mark.parametrize("field", ["mlp_hidden_size", "n_kv_heads", "embedding_size", "rope_theta", "rms_norm_eps"])
def test_absent_means_the_same_as_null(tmp_path: Path, field: str) -> None:
    write_config(tmp_path, LLADA_8B, **{field: None})
    null = model_config(read_config(tmp_path))
    write_config(tmp_path, LLADA_8B, **{field: ...})
    assert model_config(read_config(tmp_path)) == null


def test_padded_embedding_gives_the_rows(tmp_path: Path) -> None:
    assert config_of(tmp_path)["vocab_size"] == 8


def test_effective_kv_heads_stand_in_for_kv_heads(tmp_path: Path) -> None:
    assert config_of(tmp_path, n_kv_heads=None, effective_n_kv_heads=1)["num_kv_heads"] == 1


@pytest.mark.parametrize(
    ("every", "qkv", "attention", "linear"),
    [
        (False, False, False, False),
        (False, True, True, False),
        (True, False, True, True),
        (True, True, True, True),
    ],
)
def test_bias_flags(tmp_path: Path, every: bool, qkv: bool, attention: bool, linear: bool) -> None:
    config = config_of(tmp_path, include_bias=every, include_qkv_bias=qkv)
    assert (config["attention_bias"], config["linear_bias"]) == (attention, linear)


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    assert config_of(tmp_path, rope_theta=500000)["rope_theta"] == 500000.0


# --- config.json refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["LlamaForCausalLM"]},
            'architectures: expected ["LLaDAModelLM"] or ["',
        ),
        ({"architectures": ...}, "architectures: expected a list of one name, the field is missing"),
        ({"architectures": "LLaDAModelLM"}, 'architectures: expected a list of one name, got "LLaDAModelLM"'),
        ({"architectures": ["a", "b"]}, "architectures: expected a list of one name"),
        ({"architectures": []}, "architectures: expected a list of one name"),
        ({"d_model": ...}, "d_model: expected an integer in [1, 2147483647], the field is missing"),
        ({"d_model": "4"}, 'd_model: expected an integer in [1, 2147483647], got "4"'),
        ({"d_model": 4.0}, "d_model: expected an integer in [1, 2147483647], got 4.0"),
        ({"d_model": True}, "d_model: expected an integer in [1, 2147483647], got true"),
        ({"d_model": 0}, "d_model: expected an integer"),
        ({"d_model": -4}, "d_model: expected an integer"),
        ({"d_model": 2**31}, "d_model: expected an integer"),
        ({"d_model": [4]}, "d_model: expected an integer"),
        ({"d_model": 10**400}, "d_model: expected an integer"),
        ({"n_layers": None}, "n_layers: expected an integer"),
        ({"n_heads": 3}, "n_heads: expected a divisor of d_model 4"),
        ({"n_heads": 4}, "n_heads: expected a divisor of d_model 4 that leaves heads of even size"),
        ({"n_kv_heads": 3}, "n_kv_heads: expected a divisor of n_heads 2"),
        ({"effective_n_kv_heads": 2}, "effective_n_kv_heads: expected n_kv_heads 1, got 2"),
        ({"multi_query_attention": True}, "multi_query_attention: expected false, got true"),
        (
            {"multi_query_attention": False},
            "multi_query_attention: expected null with 1 key/value heads for 2 heads",
        ),
        ({"vocab_size": 9}, "embedding_size: expected at least vocab_size 9, got 8"),
        ({"mlp_hidden_size": None, "mlp_ratio": 2**30}, "mlp_ratio: expected mlp_ratio * d_model of at most"),
        ({"max_sequence_length": ...}, "max_sequence_length: expected an integer"),
        ({"rope_theta": "1e4"}, 'rope_theta: expected a number > 0, got "1e4"'),
        ({"rope_theta": 0}, "rope_theta: expected a number > 0, got 0"),
        ({"rope_theta": 10**400}, "rope_theta: expected a number > 0"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps: expected a number > 0"),
        ({"weight_tying": ...}, "weight_tying: expected true or false, the field is missing"),
        ({"weight_tying": 0}, "weight_tying: expected true or false, got 0"),
        ({"include_bias": "no"}, 'include_bias: expected true or false, got "no"'),
        ({"rope": False}, "rope: expected true, got false"),
        ({"rope": 1}, "rope: expected true, got 1"),
        ({"rope": ...}, "rope: expected true, the field is missing"),
        ({"rope_scaling": {"type": "yarn"}}, 'rope_scaling: expected null, got {"type": "yarn"}'),
        ({"quantization_config": {"bits": 4}}, "quantization_config: expected null"),
        ({"alibi": True}, "alibi: expected false, got true"),
        ({"layer_norm_type": "default"}, 'layer_norm_type: expected rms, got "default"'),
        ({"layer_norm_type": ...}, "layer_norm_type: expected rms, the field is missing"),
        ({"layer_norm_with_affine": False}, "layer_norm_with_affine: expected true"),
        ({"activation_type": "gelu"}, 'activation_type: expected silu, got "gelu"'),
        ({"block_type": "sequential"}, 'block_type: expected llama, got "sequential"'),
        ({"block_group_size": 2}, "block_group_size: expected 1, got 2"),
        ({"block_group_size": True}, "block_group_size: expected 1, got true"),
        ({"attention_layer_norm": True}, "attention_layer_norm: expected false"),
        ({"input_emb_norm": True}, "input_emb_norm: expected false"),
        ({"scale_logits": True}, "scale_logits: expected false"),
        ({"bias_for_layer_norm": True}, "bias_for_layer_norm: expected false"),
        ({"bias_for_layer_norm": None, "include_bias": True}, "bias_for_layer_norm: expected false"),
        ({"model_type": "llama"}, 'model_type: expected llada, got "llama"'),
        ({"clip_qkv": 8.0}, "clip_qkv: expected no such field (its meaning is unknown), got 8.0"),
        ({"a\nb": 1}, "a\\nb: expected no such field"),
        ({"torch_dtype": "float64"}, "torch_dtype: expected float32, bfloat16 or float16"),
        ({"torch_dtype": 16}, "torch_dtype: expected float32, bfloat16 or float16, got 16"),
        ({"dtype": "bfloat16"}, 'dtype: expected float32 as in torch_dtype, got "bfloat16"'),
        ({"mask_token_id": 8}, "mask_token_id: expected an integer in [0, 7], got 8"),
        ({"mask_token_id": -1}, "mask_token_id: expected an integer in [0, 7]"),
        ({"mask_token_id": "6"}, "mask_token_id: expected an integer in [0, 7]"),
        ({"eos_token_id": 8}, "eos_token_id: expected an id or a list of ids in [0, 7], got 8"),
        ({"eos_token_id": [5, True]}, "eos_token_id: expected an id or a list of ids"),
        ({"pad_token_id": 8}, "pad_token_id: expected an integer in [0, 7]"),
    ],
)
def test_config_field_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert refusal(write_tiny(tmp_path, **changes)).startswith(f"config.json: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON: line 1"),
        (b"[]", "expected a JSON object, got []"),
        (b"null", "expected a JSON object"),
        (b'{"a": 1, "a": 2}', 'duplicate key "a"'),
        (b'{"a": {"b": 1, "b": 1}}', 'duplicate key "b"'),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1e999}', "number 1e999 is out of range"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a number is too long"),
        (b"{'a': 1}", "not JSON: line 1"),
        (b'{"a": 1,}', "not JSON: line 1"),
        (b'{"a": "\xff"}', "expected UTF-8 text, byte 7 is not"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
        (b'{"a": ' + b"[" * 200000, "nested too deeply"),
        (b'{"a": ' + b" " * (1 << 20) + b"1}", "expected at most 1048576 bytes"),
    ],
    ids=range(15),
)
def test_malformed_json_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    write_tiny(tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    assert refusal(tmp_path).startswith(f"config.json: {message}")


def test_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    (tmp_path / "config.json").unlink()
    assert refusal(tmp_path) == "config.json: cannot be read: No such file or directory"
    (tmp_path / "config.json").mkdir()
    assert refusal(tmp_path) == "config.json: expected a regular file"
    (tmp_path / "config.json").rmdir()
    os.mkfifo(tmp_path / "config.json")
    assert refusal(tmp_path) == "config.json: expected a regular file"


def test_a_directory_is_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a directory"):
        open_checkpoint(tmp_path / "absent")


# --- token ids and defaults ---


def test_generation_config_wins_over_config(tmp_path: Path) -> None:
    write_tiny(tmp_path, bos_token_id=0)
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [4, 3, 4], "pad_token_id": 2})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.eos_token_ids == (4, 3)
    assert checkpoint.pad_token_id == 2
    assert checkpoint.bos_token_id == 0


def test_no_eos_at_all_is_an_empty_set(tmp_path: Path) -> None:
    assert open_checkpoint(write_tiny(tmp_path, eos_token_id=None)).eos_token_ids == ()


def test_mask_id_comes_from_either_file_or_the_caller(tmp_path: Path) -> None:
    write_tiny(tmp_path, mask_token_id=...)
    assert refusal(tmp_path).startswith("mask_token_id: expected in config.json, generation_config.json or given")
    assert open_checkpoint(tmp_path, mask_token_id=3).mask_token_id == 3
    write_json(tmp_path / "generation_config.json", {"mask_token_id": 2})
    assert open_checkpoint(tmp_path).mask_token_id == 2
    assert open_checkpoint(tmp_path, mask_token_id=3).mask_token_id == 3


def test_contradicting_mask_ids_are_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    write_json(tmp_path / "generation_config.json", {"mask_token_id": 2})
    assert refusal(tmp_path) == "generation_config.json: mask_token_id: expected 6 as in config.json, got 2"


@pytest.mark.parametrize("given", [-1, 8, True, 2**40])
def test_given_mask_id_must_be_in_the_vocabulary(tmp_path: Path, given: int) -> None:
    assert refusal(write_tiny(tmp_path), mask_token_id=given).startswith("mask_token_id: expected an id in [0, 7]")


def test_mask_that_is_an_eos_is_refused(tmp_path: Path) -> None:
    assert (
        refusal(write_tiny(tmp_path, eos_token_id=6)) == "mask_token_id: expected an id that is no eos_token_id, got 6"
    )


def test_sampling_defaults(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    values = {"temperature": 0.5, "top_p": 0.9, "top_k": 20, "max_new_tokens": 64, "block_length": 8}
    values |= {"min_p": 0.05, "repetition_penalty": 1.1}
    write_json(tmp_path / "generation_config.json", {**values, "penalty_alpha": 1, "transformers_version": "4"})
    defaults = open_checkpoint(tmp_path).generation_defaults
    assert (defaults.temperature, defaults.top_p, defaults.top_k) == (0.5, 0.9, 20)
    assert (defaults.min_p, defaults.repetition_penalty) == (0.05, 1.1)
    assert (defaults.max_new_tokens, defaults.block_length) == (64, 8)
    assert defaults.ignored_fields == ("penalty_alpha",)
    write_json(tmp_path / "generation_config.json", {**values, "do_sample": False})
    greedy = open_checkpoint(tmp_path).generation_defaults
    assert (greedy.temperature, greedy.top_p, greedy.top_k, greedy.min_p) == (0.0, None, None, None)
    assert greedy.repetition_penalty == 1.1  # of greedy requests, too


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"top_k": 1.5},
        {"min_p": 1.5},
        {"repetition_penalty": 0},
        {"max_new_tokens": 0},
        {"block_length": 0},
        {"do_sample": 1},
        {"eos_token_id": [99]},
        {"eos_token_id": {}},
    ],
)
def test_generation_field_is_refused_by_name(tmp_path: Path, bad: dict[str, Any]) -> None:
    write_tiny(tmp_path)
    write_json(tmp_path / "generation_config.json", bad)
    assert refusal(tmp_path).startswith(f"generation_config.json: {next(iter(bad))}: expected ")


# --- dtype ---


@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
def test_auto_dtype_is_the_declared_one(tmp_path: Path, name: str) -> None:
    changes = {"torch_dtype": ..., name: "torch.bfloat16"}
    assert config_of(tmp_path, **changes)["dtype"] == "bfloat16"


@pytest.mark.parametrize(("stored", "expected"), [(np.float32, "float32"), (np.float16, "float16")])
def test_auto_dtype_falls_back_to_the_weights(tmp_path: Path, stored: type, expected: str) -> None:
    write_config(tmp_path, TINY, torch_dtype=...)
    save_file(tiny_tensors(stored), tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).dtype == expected


def test_auto_dtype_without_any_float_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path, TINY, torch_dtype=...)
    save_file({"a": np.zeros(3, np.int64)}, tmp_path / "model.safetensors")
    assert refusal(tmp_path).startswith("dtype: auto found neither")


def test_given_dtype_wins(tmp_path: Path) -> None:
    assert open_checkpoint(write_tiny(tmp_path), dtype="float16").config["dtype"] == "float16"
    assert refusal(tmp_path, dtype="int8") == "dtype: expected auto, float32, bfloat16, float16, got int8"


# --- shards ---


def test_index_names_the_shards_in_order(tmp_path: Path) -> None:
    write_sharded(tmp_path, index=True)
    names = [Path(shard).name for shard in open_checkpoint(tmp_path).shards]
    assert names == [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]


def test_numbered_shards_need_no_index(tmp_path: Path) -> None:
    write_sharded(tmp_path, index=False)
    assert len(open_checkpoint(tmp_path).shards) == 3


@pytest.mark.parametrize("index", [True, False])
def test_missing_shard_is_named(tmp_path: Path, index: bool) -> None:
    write_sharded(tmp_path, index=index)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert refusal(tmp_path).endswith("missing shards: model-00002-of-00003.safetensors")


@pytest.mark.parametrize(
    "shard",
    [
        "/etc/passwd",
        "/tmp/model.safetensors",
        "../model.safetensors",
        "a/model.safetensors",
        "a\\model.safetensors",
        "..",
        ".",
        "",
        ".safetensors",
        "model.bin",
        "model\u0000.safetensors",
        "mod\nel.safetensors",
        "ⅿodel.safetensors",
        "x" * 300 + ".safetensors",
        7,
        None,
        ["model.safetensors"],
    ],
)
def test_shard_name_must_be_plain(tmp_path: Path, shard: object) -> None:
    weight_map: dict[str, Any] = dict(write_sharded(tmp_path, index=True))
    weight_map["model.transformer.wte.weight"] = shard
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    message = refusal(tmp_path)
    assert "expected a plain *.safetensors file name, got " in message


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "weight_map: expected tensor names to shard names, got null"),
        ({"weight_map": {}}, "weight_map: expected"),
        ({"weight_map": ["a"]}, "weight_map: expected"),
        ({"metadata": 1, "weight_map": {"a": "b.safetensors"}}, "metadata: expected an object, got 1"),
        ({"weight_map": {"a": "b.safetensors"}, "more": 1}, 'expected metadata and weight_map, got "more"'),
    ],
)
def test_malformed_index_is_refused(tmp_path: Path, index: object, message: str) -> None:
    write_sharded(tmp_path, index=False)
    write_json(tmp_path / "model.safetensors.index.json", index)
    assert refusal(tmp_path).startswith(f"model.safetensors.index.json: {message}")


def test_duplicate_names_in_the_index_are_refused(tmp_path: Path) -> None:
    weight_map = write_sharded(tmp_path, index=False)
    twice = json.dumps({"weight_map": weight_map}).replace("ln_f.weight", "wte.weight")
    (tmp_path / "model.safetensors.index.json").write_text(twice)
    assert "duplicate key" in refusal(tmp_path)


def test_tensor_in_another_shard_than_the_index_says_is_refused(tmp_path: Path) -> None:
    weight_map = write_sharded(tmp_path, index=True)
    name = "model.transformer.wte.weight"
    right = weight_map[name]
    weight_map[name] = "model-00002-of-00003.safetensors"
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    assert refusal(tmp_path).endswith(f"expected in model-00002-of-00003.safetensors, it is in {right}")
    weight_map["nowhere"] = right
    weight_map[name] = right
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    assert refusal(tmp_path).endswith(f'tensor "nowhere": expected in {right}, it is in no shard')


def test_two_sets_of_shards_are_refused(tmp_path: Path) -> None:
    write_sharded(tmp_path, index=False)
    write_sharded(tmp_path, index=False, shards=2)
    assert refusal(tmp_path) == "weights: expected one set of shards, got sets of 2, 3"


def test_shard_beyond_the_total_is_refused(tmp_path: Path) -> None:
    write_sharded(tmp_path, index=False)
    (tmp_path / "model-00003-of-00003.safetensors").rename(tmp_path / "model-00009-of-00003.safetensors")
    assert refusal(tmp_path) == "weights: expected shards 1 to 3, got shard 9"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "pytorch_model-00001-of-00002.bin"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    write_config(tmp_path, TINY)
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/executed'\ntR.")
    message = refusal(tmp_path)
    assert name in message
    assert message.endswith("convert them to safetensors")


def test_directory_without_weights_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path, TINY)
    assert refusal(tmp_path).endswith("found none")
    save_file(tiny_tensors(), tmp_path / "adapter_model.safetensors")
    assert refusal(tmp_path).endswith("got adapter_model.safetensors")


def test_auto_map_is_never_executed(tmp_path: Path) -> None:
    write_tiny(tmp_path, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    open_checkpoint(tmp_path)
    assert "evil" not in sys.modules


def test_missing_tokenizer_is_reported_not_refused(tmp_path: Path) -> None:
    assert not open_checkpoint(write_tiny(tmp_path)).has_tokenizer


# --- names a user types ---


def test_local_directory_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/name") == Path("owner/name")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/model") == tmp_path / "model"


@pytest.mark.parametrize(
    "model", ["", "/no/such/dir", "../nowhere", "a/b/c", "a//b", "-x/y", "a b", "a/b\n", "x" * 5000, "a\0b"]
)
def test_neither_directory_nor_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="Hub id") as caught:
        resolve(model)
    assert "\n" not in str(caught.value)


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="expected a directory"):
        resolve(str(tmp_path / "model.safetensors"))


def test_a_directory_has_no_revisions(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="revision: only a Hub id"):
        resolve(str(tmp_path), revision="main")


def hub_cache(home: Path, commit: str) -> Path:
    """The layout that huggingface_hub keeps: refs, blobs and snapshots of links to blobs."""
    repository = home / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / commit
    (repository / "refs").mkdir(parents=True)
    (repository / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    staging = home / "staging"
    staging.mkdir()
    write_tiny(staging)
    for i, file in enumerate(sorted(staging.iterdir())):
        file.rename(repository / "blobs" / f"{i:040d}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{i:040d}")
    return snapshot


def run_resolve(home: Path, cwd: Path, *arguments: str) -> str:
    """resolve() in a process of its own: huggingface_hub reads its environment when it is imported."""
    code = (
        "import sys\n"
        "from pydllm.checkpoint import open_checkpoint, resolve\n"
        "from pydllm.errors import CheckpointError\n"
        "try:\n"
        "    path = resolve(sys.argv[1], revision=sys.argv[2] if len(sys.argv) > 2 else None)\n"
        "    print(path, open_checkpoint(path).architecture)\n"
        "except CheckpointError as error:\n"
        "    print('refused', error)\n"
    )
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
        environment.pop(name, None)
    source = str(Path(sys.modules["pydllm"].__path__[0]).parent)
    environment["PYTHONPATH"] = os.pathsep.join([source, environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_hub_id_is_found_in_the_cache_offline(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    cwd.mkdir()
    snapshot = hub_cache(home, commit)
    expected = f"{snapshot} LLaDAModelLM"
    assert run_resolve(home, cwd, "owner/name") == expected
    assert run_resolve(home, cwd, "owner/name", commit) == expected


def test_unknown_hub_id_offline_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cwd").mkdir()
    line = run_resolve(tmp_path / "home", tmp_path / "cwd", "owner/other")
    assert line == ("refused owner/other: no such directory, not in the local Hub cache, and the Hub cannot be reached")


# --- control tokens ---

LLADA2_TINY = GOLDEN / "checkpoints" / "llada2-tiny"


def llada2_with(directory: Path, **changes: Any) -> Path:
    copy = Path(shutil.copytree(LLADA2_TINY, directory / "llada2"))
    config = json.loads((copy / "config.json").read_text())
    plain = {name: value for name, value in config.items() if name not in ("delete_token_id", "split_token_id")}
    (copy / "config.json").write_text(json.dumps({**plain, **changes}))
    return copy


def test_control_tokens_are_read(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(LLADA2_TINY)
    assert (checkpoint.delete_token_id, checkpoint.split_token_id) == (339, 340)
    plain = open_checkpoint(llada2_with(tmp_path))
    assert (plain.delete_token_id, plain.split_token_id) == (None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delete_token_id": 5}, "config.json: split_token_id: expected an id, as there is a delete_token_id"),
        ({"split_token_id": 5}, "config.json: delete_token_id: expected an id, as there is a split_token_id"),
        ({"delete_token_id": 5, "split_token_id": 5}, "config.json: split_token_id: expected another id than delete_"),
        ({"delete_token_id": -1, "split_token_id": 5}, "config.json: delete_token_id: expected an integer in [0, "),
    ],
)
def test_control_tokens_are_refused_by_name(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(llada2_with(tmp_path, **changes))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("taken", ["mask", "eos"])
def test_a_control_token_is_no_other_special_one(tmp_path: Path, taken: str) -> None:
    plain = open_checkpoint(LLADA2_TINY)
    token = plain.mask_token_id if taken == "mask" else plain.eos_token_ids[0]
    other = next(one for one in range(9) if one not in (plain.mask_token_id, *plain.eos_token_ids))
    with pytest.raises(CheckpointError, match="expected an id that is no"):
        open_checkpoint(llada2_with(tmp_path, delete_token_id=other, split_token_id=token))


def test_other_families_have_no_control_tokens(tmp_path: Path) -> None:
    assert "no such field" in refusal(write_tiny(tmp_path, delete_token_id=5, split_token_id=6))

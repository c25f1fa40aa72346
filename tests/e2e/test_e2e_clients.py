"""What people already have talks to `pydllm serve`: the openai package, LangChain, litellm, lm_eval."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from environments import checks_of, outcomes, run
from stack import KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stack import Stack

pytestmark = pytest.mark.clients

SCRIPTS = [
    ("openai3", "openai_client.py"),
    ("openai2", "openai_client.py"),
    ("openai3", "langchain_client.py"),
    ("openai2", "litellm_client.py"),
]
CASES = [
    pytest.param(environment, script, name, id=f"{environment}-{script.removesuffix('_client.py')}-{name}")
    for environment, script in SCRIPTS
    for name in checks_of(script)
]


@pytest.mark.parametrize(("environment", "script", "name"), CASES)
def test_client(
    stack: Stack, keyed: Stack, environment: str, script: str, name: str, record_property: Callable[[str, object], None]
) -> None:
    setting = {
        "url": stack.url,
        "model": stack.model,
        "metrics_url": stack.metrics_url,
        "keyed_url": keyed.url,
        "key": KEY,
    }
    outcome = outcomes(environment, script, json.dumps(setting))[name]
    assert "error" not in outcome, outcome["error"]
    if name in ("chat", "chat_invoke", "completion"):
        record_property("figure", outcome["figure"])


def test_lm_eval_scores_a_generation_task_with_the_servers_own_tokenizer(
    stack: Stack, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    arguments = (
        f"model={stack.model},base_url={stack.url}/v1/completions,tokenizer_backend=remote,tokenized_requests=True,"
        "num_concurrent=4,max_retries=1,max_length=256"
    )
    run(
        "lm_eval", "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", arguments,
        "--tasks", "pydllm_sums", "--include_path", ".", "--output_path", str(tmp_path),
        folder="lm_eval_task", HF_HOME=str(tmp_path / "hf"), OPENAI_API_KEY="unused",
    )  # fmt: skip
    [report] = tmp_path.rglob("results_*.json")
    results = json.loads(report.read_text())["results"]["pydllm_sums"]
    accuracy = results["exact_match,answer"]
    record_property("figure", f"lm_eval: {accuracy:.0%} of 40 sums exact")
    assert accuracy >= 0.95  # what the demo model gets right of held-out sums, whoever asks

"""`make accept-families`: what the model families, decoding algorithms and cache regimes promise, one line each with
its figure, pass or fail. `--short` leaves out what `make test` runs; naming lines runs only those.
"""

from __future__ import annotations

import sys

from lines import Line, cpp, run, tests

ALGORITHMS = "*Dream.*:ConfidenceFactor.*:*Hierarchical.*:*NearMax.*:*Rnd1Entropy.*:*MultiBlockEntropy.*:Credit.*:D2f.*"
BLOCK_CAUSAL = "LowConfidence.*:JointThreshold.*:Sdar.*:MultiBlock.*:FastDllmV2.*"
LINES = [
    Line("golden-dream", "dream_generate 13/13 token for token, the run with ties by counts",
         tests("tests/engine/test_dream_golden_runs.py"), False),
    Line("golden-prefix", "fastdllm_llada_prefix 6/6 token for token, beside the uncached LLaDA recordings",
         tests("tests/engine/test_golden.py"), False),
    Line("golden-d3llm", "d3llm_llada_multiblock 8/8, the four with early stop up to the end of sequence",
         tests("tests/engine/test_golden_d3llm.py"), False),
    Line("golden-llada2", "sgl_lowconf_llada2 12/12 token for token",
         tests("tests/models/test_llada2_golden.py"), False),
    Line("logic-low-confidence", "logic_sgl_lowconfidence 60/60", cpp("LogicLowConfidence.*", show=r"\d+/\d+")),
    Line("vectors", "the executed vectors of the algorithms of full-attention models", cpp(ALGORITHMS), False),
    Line("vectors-blocks", "the executed vectors of the algorithms of block-causal models", cpp(BLOCK_CAUSAL), False),
    Line("logits", "every family's logits against transformers or a float64 reference, every dtype, shards",
         tests("tests/models/test_families_transformers.py", "tests/models/test_dream_golden.py"), False),
    Line("llama-cpp", "LLaDA's, Dream's and LLaDA-MoE's logits against llama.cpp, float32, every choice the same",
         tests("tests/models/test_llama_cpp.py"), False),
    Line("routers", "expert routers and the expert product against the formula in float64, exact ties included",
         cpp("*Router.*:ExpertFfn*"), False),
    Line("contract", "every registered algorithm: ends, progresses, writes only where it may, at every remainder",
         cpp("Registry/EveryAlgorithm.*:AlgorithmTables.*")),
    Line("engine", "every registered algorithm in the engine: models that love the mask, every budget, edits counted",
         cpp("Registry/EveryAlgorithmInTheEngine.*"), False),
    Line("deadline", "a deadline ends a running request in time, in every algorithm with what max_forward_passes gives",
         cpp("StepTimes.*:EngineDeadline.*:Registry/EveryAlgorithmInTheEngine.ADeadline*"), False),
    Line("every", "every algorithm of every family, float32 and bfloat16, shards: the same alone and with all others",
         tests("tests/models/test_every_algorithm.py", "-k", "answers_the_same"), False),
    Line("exact", "block-causal: cached equals uncached bit for bit, every prompt length, chunk and batch",
         cpp("BlockCausalEngine.*"), False),
    Line("windows", "prefix and dual caches feed and see what the original's do", cpp("WindowCache*.*"), False),
    Line("delayed", "the delayed cache of d3LLM: every canvas that of a float64 network and loop",
         tests("tests/engine/test_delayed_cache.py"), False),
    Line("credit", "credit in the engine: near_max without weight, alone and batched the same",
         cpp("CreditEngine.*"), False),
    Line("dinfer-blocks", "near_max, hierarchical, credit on LLaDA2: every canvas that of a float64 network and loop",
         tests("tests/models/test_dinfer_block_causal.py"), False),
    Line("d2f", "d2f: every canvas that of a float64 network and loop",
         tests("tests/engine/test_d2f.py"), False),
    Line("d2f-exact", "d2f: cached equals uncached bit for bit, every prompt length, chunk and batch; what is refused",
         cpp("D2fEngine.*"), False),
    Line("levenshtein", "the vectors of levenshtein, alone and by default on a checkpoint with control tokens",
         cpp("Levenshtein*.*"), False),
    Line("rules", "penalties, logit_bias, bans, min_tokens in every algorithm against the formula in float64; "
         "control tokens are never written",
         cpp("Registry/RulesOfEveryAlgorithm.*:LogitRules.*"), False),
    Line("infilling", "holes and fixed text: every algorithm writes in holes only; the answers, suffix, refusals",
         tests("tests/engine/test_infill.py"), False),
    Line("defaults", "a family's defaults: request before family before algorithm; in the docs as in the registry",
         cpp("EngineValidation.*Default*:AlgorithmDocs.*:AlgorithmTables.*"), False),
    Line("docs", "a page for every algorithm, with the registry's parameters", cpp("AlgorithmDocs.*"), False),
    Line("info", "GetModelInfo tells of every kind of model what the engine does",
         tests("tests/server/test_model_info.py"), False),
    Line("parameters", "every parameter of every algorithm: out of range, unknown, of other algorithms and models",
         cpp("CheckParams.*:EngineValidation.*"), False),
    Line("bad-input", "configs, tensors, parameters and algorithms that cannot be honoured are refused by name",
         tests("tests/models/test_family_configs.py", "tests/engine/test_params.py",
               "tests/models/test_every_algorithm.py", "-k", "not answers_the_same"), False),
]  # fmt: skip

if __name__ == "__main__":
    sys.exit(run(LINES, __doc__, "test-cpp"))

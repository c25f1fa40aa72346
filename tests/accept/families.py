"""`make accept-families`: what the model families, decoding algorithms and cache regimes promise, one line each with
its figure, pass or fail. Naming lines runs only those.
"""

from __future__ import annotations

import sys

from lines import Line, cpp, run, tests

ALGORITHMS = "*Dream.*:*ConfidenceFactor.*:*Hierarchical.*:*NearMax.*:*Rnd1Entropy.*:*MultiBlockEntropy.*"
BLOCK_CAUSAL = "LowConfidence.*:JointThreshold.*:Sdar.*:MultiBlock.*:FastDllmV2.*"
LINES = [
    Line("golden-dream", "dream_generate 13/13 token for token, the run with ties by counts",
         tests("tests/engine/test_dream_golden_runs.py")),
    Line("golden-prefix", "fastdllm_llada_prefix 6/6 token for token, beside the uncached LLaDA recordings",
         tests("tests/engine/test_golden.py")),
    Line("golden-d3llm", "d3llm_llada_multiblock 8/8, the four with early stop up to the end of sequence",
         tests("tests/engine/test_golden_d3llm.py")),
    Line("golden-llada2", "sgl_lowconf_llada2 12/12 token for token", tests("tests/models/test_llada2_golden.py")),
    Line("logic-low-confidence", "logic_sgl_lowconfidence 60/60", cpp("LogicLowConfidence.*", show=r"\d+/\d+")),
    Line("vectors", "the executed vectors of the algorithms of full-attention models", cpp(ALGORITHMS)),
    Line("vectors-blocks", "the executed vectors of the algorithms of block-causal models", cpp(BLOCK_CAUSAL)),
    Line("logits", "every family's logits against transformers or a float64 reference, every dtype, shards",
         tests("tests/models/test_families_transformers.py", "tests/models/test_dream_golden.py")),
    Line("llama-cpp", "LLaDA's, Dream's and LLaDA-MoE's logits against llama.cpp, float32, every choice the same",
         tests("tests/models/test_llama_cpp.py")),
    Line("routers", "expert routers and the expert product against the formula in float64, exact ties included",
         cpp("*Router.*:ExpertFfn*")),
    Line("contract", "every registered algorithm: ends, progresses, writes only where it may, at every remainder",
         cpp("Registry/EveryAlgorithm.*:AlgorithmTables.*")),
    Line("exact", "block-causal: cached equals uncached bit for bit, every prompt length, chunk and batch",
         cpp("BlockCausalEngine.*")),
    Line("windows", "prefix and dual caches feed and see what the original's do", cpp("WindowCache*.*")),
    Line("docs", "a page for every algorithm, with the registry's parameters", cpp("AlgorithmDocs.*")),
    Line("bad-input", "configs and parameters that cannot be honoured are refused by name",
         tests("tests/models/test_family_configs.py", "tests/engine/test_params.py")),
]  # fmt: skip

if __name__ == "__main__":
    sys.exit(run(LINES, __doc__, "test-cpp"))

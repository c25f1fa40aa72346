// Golden traces: every step of SGLang's LowConfidence over 60 blocks. The text is made by
// tests/decode/make_low_confidence_golden.py from the recording.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "decode_driver.h"

namespace pydllm::decode {
namespace {

using Ids = std::vector<int32_t>;

struct Step {
  Ids before;
  bool done = false;
  Ids predicted;
  std::vector<float> confidences;
};

struct Trace {
  int id = 0;
  int32_t block = 0;
  int32_t prompt_length = 0;
  double threshold = 0;
  std::vector<Step> steps;
  Ids after;
};

Ids read_ids(std::istream& in, int32_t count) {
  Ids ids(static_cast<size_t>(count));
  for (int32_t& id : ids) in >> id;
  return ids;
}

Step read_step(std::istream& in, int32_t block) {
  Step step;
  step.before = read_ids(in, block);
  in >> step.done;
  step.predicted = read_ids(in, block);
  for (int32_t i = 0; i < block; ++i) {
    std::string bits;
    in >> bits;
    step.confidences.push_back(std::bit_cast<float>(static_cast<uint32_t>(std::stoul(bits, nullptr, 16))));
  }
  return step;
}

Trace read_trace(std::istream& in) {
  Trace trace;
  size_t steps = 0;
  in >> trace.id >> trace.block >> trace.prompt_length >> trace.threshold >> steps;
  for (size_t i = 0; i < steps; ++i) trace.steps.push_back(read_step(in, trace.block));
  trace.after = read_ids(in, trace.block);
  return trace;
}

// The block as it was before the step. The recording lets the model predict the mask, so here the mask is an id outside
// the vocabulary, and what the recording shows as a mask behind the prompt is an open position.
constexpr int32_t kOutside = 1000;

Driver before_step(const Trace& trace, const Step& step, int32_t mask_id) {
  const Ids prompt(step.before.begin(), step.before.begin() + trace.prompt_length);
  Driver driver({.prompt = prompt,
                 .max_tokens = trace.block - trace.prompt_length,
                 .mask_id = kOutside,
                 .block_length = trace.block},
                "low_confidence", {{"threshold", trace.threshold}});
  for (int32_t i = trace.prompt_length; i < trace.block; ++i) {
    const int32_t id = step.before[static_cast<size_t>(i)];
    if (id != mask_id) driver.canvas.commit(i, id, 1);
  }
  return driver;
}

Ids after_step(Driver& driver, const Step& step, int32_t mask_id) {
  driver.step([&](int32_t position, int32_t) {
    const auto at = static_cast<size_t>(position);
    RowStats stats;
    stats.token = step.predicted[at];
    stats.confidence = step.confidences[at];
    stats.finite = true;
    return stats;
  });
  Ids ids(driver.canvas.tokens().begin(), driver.canvas.tokens().end());
  std::replace(ids.begin(), ids.end(), kOutside, mask_id);
  return ids;
}

TEST(LogicLowConfidence, EveryStepOfEveryTraceIsTheOriginals) {
  std::ifstream in(std::filesystem::path(PYDLLM_TESTS) / "core/golden_logic/low_confidence.txt");
  int traces = 0;
  int32_t mask_id = 0;
  in >> traces >> mask_id;
  ASSERT_EQ(traces, 60);
  for (int i = 0; i < traces; ++i) {
    const Trace trace = read_trace(in);
    for (size_t s = 0; s < trace.steps.size(); ++s) {
      const Step& step = trace.steps[s];
      const Ids& expected = s + 1 < trace.steps.size() ? trace.steps[s + 1].before : trace.after;
      Driver driver = before_step(trace, step, mask_id);
      EXPECT_EQ(driver.done(), step.done) << "trace " << trace.id << " step " << s;
      if (driver.done()) continue;
      EXPECT_EQ(after_step(driver, step, mask_id), expected) << "trace " << trace.id << " step " << s;
    }
  }
  EXPECT_TRUE(in.good()) << "the table is cut short";
}

}  // namespace
}  // namespace pydllm::decode

#include "base/philox.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

namespace pydllm {
namespace {

using Counter = std::array<uint32_t, 4>;

Counter generate(const Counter& counter, uint32_t key0, uint32_t key1) {
  const Philox4 out = philox4x32_10(counter.data(), uint64_t{key1} << 32 | key0);
  return {out.v[0], out.v[1], out.v[2], out.v[3]};
}

// The known answers published with the authors' Random123 library (kat_vectors, philox 4x32 10).
TEST(Philox, MatchesThePublishedKnownAnswers) {
  EXPECT_EQ(generate({0, 0, 0, 0}, 0, 0), (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(generate({kOnes, kOnes, kOnes, kOnes}, kOnes, kOnes),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(generate({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, EveryArgumentOfADrawMatters) {
  std::set<uint32_t> first_words;
  const auto add = [&](uint64_t seed, RandomPurpose purpose, uint32_t step, uint32_t position, uint32_t block) {
    first_words.insert(random_draw(seed, purpose, step, position, block).v[0]);
  };
  add(1, RandomPurpose::kToken, 1, 1, 1);
  add(2, RandomPurpose::kToken, 1, 1, 1);
  add(uint64_t{1} << 32 | 1, RandomPurpose::kToken, 1, 1, 1);
  add(1, RandomPurpose::kPosition, 1, 1, 1);
  add(1, RandomPurpose::kToken, 2, 1, 1);
  add(1, RandomPurpose::kToken, 1, 2, 1);
  add(1, RandomPurpose::kToken, 1, 1, 2);
  EXPECT_EQ(first_words.size(), 7u);
}

// log(-log(u)) must be finite for every draw.
TEST(Philox, OpenUnitStaysInsideItsInterval) {
  EXPECT_GT(open_unit(0), 0.0f);
  EXPECT_LT(open_unit(0xffffffff), 1.0f);
  EXPECT_LT(open_unit(0xffffff80), 1.0f);
  EXPECT_NEAR(open_unit(0x80000000), 0.5, 1e-7);
  for (uint32_t bits = 1; bits < 0xff000000; bits = bits * 2 + 1) {
    EXPECT_NEAR(open_unit(bits) * 4294967296.0, bits + 0.5, bits * 0x1p-23);
  }
}

}  // namespace
}  // namespace pydllm

// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).
// Counter-based so that a draw depends only on (seed, purpose, step, position, index): never on the batch, the thread
// or what was drawn before. Header-only, constexpr and free of std: device code calls it too.
#pragma once

#include <cstdint>

namespace pydllm {

struct Philox4 {
  uint32_t v[4];
};

constexpr Philox4 philox4x32_10(const uint32_t counter[4], uint64_t key) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// What a random number is for; keeps streams of one request apart.
enum class RandomPurpose : uint32_t { kToken = 0, kPosition = 1 };

// Four 32-bit draws for (seed; purpose, step, position, block). For kToken, `block` is token id / 4.
constexpr Philox4 random_draw(uint64_t seed, RandomPurpose purpose, uint32_t step, uint32_t position, uint32_t block) {
  const uint32_t counter[4] = {block, position, step, static_cast<uint32_t>(purpose)};
  return philox4x32_10(counter, seed);
}

// Maps 32 random bits to (0, 1): never 0, never 1 (the largest 128 would round up to it), precise near 0 (relative
// 2^-24).
constexpr float open_unit(uint32_t bits) {
  constexpr float kBelowOne = 0.99999994f;  // 1 - 2^-24
  const float unit = (static_cast<float>(bits) + 0.5f) * 2.3283064365386963e-10f;
  return unit < kBelowOne ? unit : kBelowOne;
}

}  // namespace pydllm

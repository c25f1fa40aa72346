// The canvas: masks by position, never by id.
#include "decode/canvas.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "base/errors.h"

namespace pydllm::decode {
namespace {

constexpr int32_t kMask = 9;

std::vector<int32_t> masked_in(const Canvas& canvas, int32_t begin, int32_t end) {
  std::vector<int32_t> out;
  canvas.masked_positions(begin, end, out);
  return out;
}

TEST(Canvas, StartsAsPromptAndMasks) {
  const std::vector<int32_t> prompt = {4, 5};
  const Canvas canvas(prompt, 3, kMask);
  EXPECT_EQ(std::vector<int32_t>(canvas.tokens().begin(), canvas.tokens().end()),
            (std::vector<int32_t>{4, 5, 9, 9, 9}));
  EXPECT_EQ(canvas.length(), 5);
  EXPECT_EQ(canvas.prompt_length(), 2);
  EXPECT_EQ(canvas.mask_token_id(), kMask);
  EXPECT_EQ(canvas.masked_count(), 3);
  EXPECT_EQ(canvas.final_end(), 2);
  EXPECT_EQ(masked_in(canvas, 0, 5), (std::vector<int32_t>{2, 3, 4}));
}

TEST(Canvas, MaskIdInThePromptIsData) {
  const std::vector<int32_t> prompt = {kMask, 1, kMask};
  Canvas canvas(prompt, 1, kMask);
  EXPECT_FALSE(canvas.masked(0));
  EXPECT_FALSE(canvas.masked(2));
  EXPECT_EQ(canvas.masked_count(0, 3), 0);
  EXPECT_THROW(canvas.commit(0, 1, 0.5f), InternalError);
  EXPECT_EQ(canvas.final_end(), 3);
}

TEST(Canvas, FinalEndIsTheLongestPrefixWithoutMasks) {
  const std::vector<int32_t> prompt = {1};
  Canvas canvas(prompt, 4, kMask);
  canvas.commit(3, 2, 0.5f);
  EXPECT_EQ(canvas.final_end(), 1);
  canvas.commit(1, 2, 0.5f);
  EXPECT_EQ(canvas.final_end(), 2);
  canvas.commit(2, 2, 0.5f);
  EXPECT_EQ(canvas.final_end(), 4);
  EXPECT_EQ(masked_in(canvas, 0, 5), (std::vector<int32_t>{4}));
  canvas.commit(4, 2, 0.5f);
  EXPECT_EQ(canvas.final_end(), 5);
  EXPECT_EQ(canvas.masked_count(), 0);
}

TEST(Canvas, RefusesWhatIsNotAnOpenPositionOrAToken) {
  const std::vector<int32_t> prompt = {1};
  Canvas canvas(prompt, 2, kMask);
  EXPECT_THROW(canvas.commit(1, kMask, 0.5f), InternalError);
  EXPECT_THROW(canvas.commit(1, -1, 0.5f), InternalError);
  EXPECT_THROW(canvas.commit(-1, 2, 0.5f), InternalError);
  EXPECT_THROW(canvas.commit(3, 2, 0.5f), InternalError);
  EXPECT_EQ(canvas.masked_count(), 2) << "a refused commit writes nothing";
  canvas.commit(1, 2, 0.5f);
  EXPECT_THROW(canvas.commit(1, 3, 0.5f), InternalError);
  EXPECT_EQ(canvas.tokens()[1], 2);
}

TEST(Canvas, RemembersTheConfidenceOfWhatWasWrittenAndHasNoneElsewhere) {
  const std::vector<int32_t> prompt = {1};
  Canvas canvas(prompt, 3, kMask);
  canvas.commit(2, 5, 0.75f);
  canvas.commit(3, 5, 0.25f);
  EXPECT_THROW(canvas.commit(2, 6, 1.0f), InternalError);
  EXPECT_THROW(canvas.commit(1, kMask, 1.0f), InternalError);
  EXPECT_EQ(std::vector<float>(canvas.confidences().begin(), canvas.confidences().end()),
            (std::vector<float>{0, 0, 0.75f, 0.25f}));
}

TEST(Canvas, FillsWhatFollowsAPositionWithItsToken) {
  const std::vector<int32_t> prompt = {1};
  Canvas canvas(prompt, 4, kMask);
  canvas.commit(2, 5, 0.75f);
  canvas.commit(4, 6, 0.25f);
  canvas.fill_after(2);
  EXPECT_EQ(std::vector<int32_t>(canvas.tokens().begin(), canvas.tokens().end()),
            (std::vector<int32_t>{1, kMask, 5, 5, 5}));
  EXPECT_EQ(std::vector<float>(canvas.confidences().begin(), canvas.confidences().end()),
            (std::vector<float>{0, 0, 0.75f, 0, 0}));
  EXPECT_EQ(canvas.masked_count(), 1);
  EXPECT_EQ(canvas.final_end(), 1);
  canvas.commit(1, 7, 0.5f);
  EXPECT_EQ(canvas.final_end(), 5);
}

TEST(Canvas, FillsOnlyAfterAGeneratedToken) {
  const std::vector<int32_t> prompt = {1};
  Canvas canvas(prompt, 2, kMask);
  for (const int32_t position : {-1, 0, 1, 2, 3}) EXPECT_THROW(canvas.fill_after(position), InternalError);
  EXPECT_EQ(canvas.masked_count(), 2);
}

TEST(Canvas, RangesAreChecked) {
  const std::vector<int32_t> prompt = {1};
  const Canvas canvas(prompt, 2, kMask);
  EXPECT_EQ(canvas.masked_count(3, 3), 0);
  EXPECT_EQ(canvas.masked_count(2, 3), 1);
  EXPECT_THROW(canvas.masked_count(-1, 2), InternalError);
  EXPECT_THROW(canvas.masked_count(0, 4), InternalError);
  EXPECT_THROW(canvas.masked_count(2, 1), InternalError);
  EXPECT_THROW(masked_in(canvas, 0, 4), InternalError);
}

TEST(Canvas, PositionsAreAppended) {
  const std::vector<int32_t> prompt = {1};
  const Canvas canvas(prompt, 2, kMask);
  std::vector<int32_t> out = {77};
  canvas.masked_positions(0, 3, out);
  EXPECT_EQ(out, (std::vector<int32_t>{77, 1, 2}));
}

TEST(Canvas, RefusesLengthsThatCannotBe) {
  const std::vector<int32_t> prompt = {1, 2};
  EXPECT_THROW(Canvas(prompt, -1, kMask), InternalError);
  EXPECT_THROW(Canvas(prompt, 2147483646, kMask), InternalError);
  EXPECT_EQ(Canvas(prompt, 0, kMask).final_end(), 2);
  EXPECT_EQ(Canvas({}, 2, kMask).final_end(), 0);
}

TEST(Canvas, CountsStayTrueInRandomOrders) {
  std::mt19937 random(3);
  const std::vector<int32_t> prompt = {1, kMask, 2};
  for (int trial = 0; trial < 200; ++trial) {
    Canvas canvas(prompt, 1 + static_cast<int32_t>(random() % 40), kMask);
    std::vector<int32_t> open = masked_in(canvas, 0, canvas.length());
    std::shuffle(open.begin(), open.end(), random);
    while (!open.empty()) {
      canvas.commit(open.back(), 5, 0.5f);
      open.pop_back();
      EXPECT_EQ(canvas.masked_count(), static_cast<int32_t>(open.size()));
      EXPECT_EQ(canvas.masked_count(0, canvas.length()), canvas.masked_count());
      const auto first_open = std::ranges::min_element(open);
      EXPECT_EQ(canvas.final_end(), first_open == open.end() ? canvas.length() : *first_open);
    }
  }
}

TEST(Canvas, IsFilledUpToWholeBlocksBehindTheAnswer) {
  const std::vector<int32_t> prompt = {1, 2, 3};
  for (const auto& [max_tokens, length] : {std::pair{1, 4}, {2, 8}, {5, 8}, {6, 12}}) {
    const Canvas canvas(prompt, max_tokens, kMask, 4);
    EXPECT_EQ(canvas.length(), length);
    EXPECT_EQ(canvas.answer_end(), 3 + max_tokens);
    EXPECT_EQ(canvas.masked_count(), length - 3);
  }
  EXPECT_THROW(Canvas(prompt, std::numeric_limits<int32_t>::max() - 3, kMask, 7), InternalError);
  EXPECT_THROW(Canvas(prompt, 1, kMask, -1), InternalError);
}

TEST(Canvas, TokensThatMayBeEditedAreFinalWhenTheyAreSettled) {
  const std::vector<int32_t> prompt = {1};
  Canvas canvas(prompt, 3, kMask, 4, Finality::kSettled);
  canvas.commit(1, 2, 0.5f);
  canvas.commit(2, 3, 0.5f);
  EXPECT_EQ(canvas.final_end(), 1);
  canvas.edit(2, 5, 0.75f);
  EXPECT_EQ(canvas.tokens()[2], 5);
  EXPECT_EQ(canvas.confidences()[2], 0.75f);
  EXPECT_THROW(canvas.settle(4), InternalError) << "position 3 is masked";
  canvas.settle(2);
  EXPECT_EQ(canvas.final_end(), 2);
  EXPECT_THROW(canvas.settle(1), InternalError);
  EXPECT_THROW(canvas.edit(1, 4, 0.5f), InternalError) << "final text is never retracted";
  EXPECT_THROW(canvas.edit(0, 4, 0.5f), InternalError) << "the prompt";
  EXPECT_THROW(canvas.edit(3, 4, 0.5f), InternalError) << "masked";
  EXPECT_THROW(canvas.edit(2, kMask, 0.5f), InternalError);
  EXPECT_THROW(canvas.edit(2, -1, 0.5f), InternalError);
  EXPECT_THROW(canvas.edit(4, 1, 0.5f), InternalError);
}

TEST(Canvas, ATokenThatMayBeEditedMayBeMaskedAgain) {
  Canvas canvas(std::vector<int32_t>{4}, 3, 9, 0, Finality::kSettled);
  canvas.commit(1, 5, .5f);
  canvas.commit(2, 6, .5f);
  canvas.settle(2);
  canvas.forget_changes();
  canvas.remask(2);
  EXPECT_TRUE(canvas.masked(2));
  EXPECT_EQ(canvas.tokens()[2], 9);
  EXPECT_EQ(canvas.confidences()[2], 0);
  EXPECT_EQ(canvas.masked_count(), 2);
  EXPECT_EQ(canvas.first_change(), 2);
  for (const int32_t position : {0, 1, 2, 3}) EXPECT_THROW(canvas.remask(position), InternalError) << position;
  Canvas written(std::vector<int32_t>{4}, 3, 9);
  written.commit(2, 5, .5f);
  EXPECT_THROW(written.remask(2), InternalError);
}

TEST(Canvas, SettlingBelongsToCanvasesThatAreEdited) {
  Canvas canvas(std::vector<int32_t>{1}, 1, kMask);
  canvas.commit(1, 2, 0.5f);
  EXPECT_THROW(canvas.settle(2), InternalError);
  EXPECT_THROW(canvas.edit(1, 3, 0.5f), InternalError);
}

TEST(Canvas, TellsTheLowestPositionWrittenSinceItWasAsked) {
  Canvas canvas(std::vector<int32_t>{1, 1}, 4, kMask, 0, Finality::kSettled);
  EXPECT_EQ(canvas.first_change(), 6);
  canvas.commit(4, 2, 0.5f);
  canvas.commit(3, 2, 0.5f);
  canvas.commit(5, 2, 0.5f);
  EXPECT_EQ(canvas.first_change(), 3);
  canvas.forget_changes();
  EXPECT_EQ(canvas.first_change(), 6);
  canvas.edit(4, 3, 0.5f);
  EXPECT_EQ(canvas.first_change(), 4);
}

TEST(Canvas, FixedTokensOfAnInfillingAreThereAndNeverWritten) {
  const std::vector<int32_t> prompt = {1, kMask};
  const std::vector<int32_t> rest = {-1, -1, 4, kMask, -1, 5, 6};
  Canvas canvas(prompt, rest, kMask);
  EXPECT_EQ(canvas.length(), 9);
  EXPECT_EQ(canvas.prompt_length(), 2);
  EXPECT_EQ(canvas.answer_end(), 7) << "behind the last hole";
  EXPECT_EQ(canvas.fixed_end(), 9);
  EXPECT_EQ(canvas.masked_count(), 3);
  EXPECT_EQ(canvas.final_end(), 2);
  const std::vector<uint8_t> fixed(canvas.fixed_in_answer().begin(), canvas.fixed_in_answer().end());
  EXPECT_EQ(fixed, (std::vector<uint8_t>{0, 0, 1, 1, 0}));
  std::vector<int32_t> masked;
  canvas.masked_positions(0, canvas.length(), masked);
  EXPECT_EQ(masked, (std::vector<int32_t>{2, 3, 6}));
  for (const int32_t position : {0, 1, 4, 5, 7, 8}) {
    EXPECT_TRUE(canvas.fixed(position));
    EXPECT_THROW(canvas.commit(position, 2, 0.5f), InternalError);
    EXPECT_THROW(canvas.edit(position, 2, 0.5f), InternalError);
  }
  canvas.commit(2, 7, 0.5f);
  canvas.commit(3, 7, 0.5f);
  EXPECT_EQ(canvas.final_end(), 6) << "fixed text behind a finished hole is final";
  canvas.fill_after(3);
  EXPECT_EQ(canvas.tokens()[6], 7);
  EXPECT_EQ(canvas.tokens()[4], 4) << "filling leaves fixed tokens alone";
  EXPECT_EQ(canvas.tokens()[8], 6);
  EXPECT_EQ(canvas.masked_count(), 0);
}

TEST(Canvas, AnAnswerBeginsWithAHole) {
  const std::vector<int32_t> prompt = {1};
  EXPECT_THROW(Canvas(prompt, std::vector<int32_t>{}, kMask), InternalError);
  EXPECT_THROW(Canvas(prompt, std::vector<int32_t>{3, -1}, kMask), InternalError);
  EXPECT_THROW(Canvas(prompt, std::vector<int32_t>{-1, -2}, kMask), InternalError);
}

}  // namespace
}  // namespace pydllm::decode

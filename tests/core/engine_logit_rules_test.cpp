// Penalties, logit_bias and min_tokens in the commit path of every algorithm, on each kind of model that it runs
// on, with and without shifted logits, and that no control token is ever written. The reference makes every written
// token from the formula in float64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <tuple>

#include "engine/logit_rules.h"
#include "engine_harness.h"
#include "on_models.h"

namespace pydllm::engine {
namespace {

constexpr int32_t kVocab = 61;
constexpr int32_t kBlock = 4;

class RulesOfEveryAlgorithm : public ::testing::TestWithParam<std::tuple<decode::OnModel, bool>> {
 protected:
  const decode::OnModel& on() const { return std::get<0>(GetParam()); }
  const decode::Algorithm& algorithm() const { return *on().algorithm; }

  fake::Behaviour behaviour() const {
    fake::Behaviour behaviour;
    behaviour.block_length = on().block_causal() ? kBlock : 0;
    behaviour.logit_shift = std::get<1>(GetParam());
    return behaviour;
  }

  // Of a model with control tokens.
  EngineOptions options() const {
    EngineOptions options = fake_options();
    options.delete_token_id = kDelete;
    options.split_token_id = kSplit;
    return options;
  }

  Request request(size_t prompt, int32_t max_tokens) const {
    std::vector<int32_t> ids = {7, kMask, 9, 7, 11};
    ids.resize(prompt, 8);
    Request request = ask(ids, max_tokens, std::string(algorithm().name));
    if (on().has_param("block_length")) request.params = {{"block_length", int64_t{kBlock}}};
    return request;
  }
};

// Everything that was written at any time, final or not.
std::vector<int32_t> written(const Stream& stream) {
  std::vector<int32_t> all = stream.tokens();
  for (const Event& event : stream.events) {
    std::ranges::copy_if(event.snapshot_tokens, std::back_inserter(all), [](int32_t id) { return id >= 0; });
  }
  return all;
}

TEST_P(RulesOfEveryAlgorithm, ABannedIdIsNeverWritten) {
  fake::Behaviour loving = behaviour();
  loving.loved_token = 20;
  Client client(loving, options());
  for (const float temperature : {0.0f, 1.5f}) {
    for (int32_t max_tokens = 1; max_tokens <= 2 * kBlock + 1; ++max_tokens) {
      Request banning = request(3, max_tokens);
      banning.temperature = temperature;
      banning.snapshots = true;
      const Stream plain = client.run(banning);
      EXPECT_TRUE(std::ranges::count(written(plain), 20) > 0) << "the model wants it everywhere";
      banning.logit_bias = {{33, -100}, {20, -100}, {2, -100}};
      for (const int32_t id : written(client.run(banning))) EXPECT_TRUE(id != 20 && id != 33 && id != 2) << id;
    }
  }
}

TEST_P(RulesOfEveryAlgorithm, ABiasOfAHundredForcesAToken) {
  Client client(behaviour(), options());
  for (int32_t max_tokens = 1; max_tokens <= 2 * kBlock + 1; ++max_tokens) {
    Request forcing = request(2, max_tokens);
    forcing.logit_bias = {{42, 100}};
    EXPECT_EQ(client.run(forcing).tokens(), std::vector<int32_t>(static_cast<size_t>(max_tokens), 42));
  }
}

// The model wants nothing else. levenshtein does what they say, until its block has to end.
TEST_P(RulesOfEveryAlgorithm, AControlTokenIsNeverWritten) {
  for (const int32_t control : {kDelete, kSplit}) {
    fake::Behaviour loving = behaviour();
    loving.loved_token = control;
    Client client(loving, options());
    for (const float temperature : {0.0f, 1.5f}) {
      for (int32_t max_tokens = 1; max_tokens <= 2 * kBlock + 1; ++max_tokens) {
        Request plain = request(4, max_tokens);
        plain.temperature = temperature;
        plain.snapshots = true;
        if (algorithm().reads_controls) plain.params = {{"max_steps_per_block", int64_t{9}}};
        const Stream stream = client.run(plain);
        EXPECT_EQ(stream.tokens().size(), static_cast<size_t>(max_tokens));
        for (const int32_t id : written(stream)) EXPECT_TRUE(id != kDelete && id != kSplit) << id;
      }
    }
  }
}

// The model wants the end everywhere, so it comes as soon as it may: at every remainder of the block.
TEST_P(RulesOfEveryAlgorithm, NoEndComesAmongTheFirstMinTokens) {
  fake::Behaviour ending = behaviour();
  ending.loved_token = 20;
  Client client(ending, options());
  for (const bool eos : {true, false}) {
    for (size_t prompt = 1; prompt <= kBlock; ++prompt) {
      const int32_t max_tokens = 2 * kBlock + 2;
      for (int32_t least = 0; least <= max_tokens; ++least) {
        Request patient = request(prompt, max_tokens);
        (eos ? patient.eos_token_ids : patient.stop_token_ids) = {20, 21};
        patient.min_tokens = least;
        const Stream stream = client.run(patient);
        const auto tokens = stream.tokens();
        ASSERT_EQ(tokens.size(), static_cast<size_t>(std::min(least + 1, max_tokens)));
        EXPECT_EQ(std::ranges::count(tokens, 20), least < max_tokens ? 1 : 0);
        EXPECT_EQ(std::ranges::count(tokens, 21), 0);
        EXPECT_EQ(stream.end().finish_reason, least == max_tokens ? FinishReason::kLength
                                              : eos               ? FinishReason::kStop
                                                                  : FinishReason::kStopToken);
      }
    }
  }
}

// Where what `position` sees ends.
int32_t seen_end(const fake::Behaviour& model, const Request& request, int32_t position) {
  const auto prompt = static_cast<int32_t>(request.prompt.size());
  if (model.block_length > 0) return (position / model.block_length + 1) * model.block_length;
  if (request.algorithm != "d2f") return prompt + request.max_tokens;
  if (position < prompt) return prompt;
  return std::min(prompt + ((position - prompt) / kBlock + 1) * kBlock, prompt + request.max_tokens);
}

// The logits of one position by the formula of engine/logit_rules.h, from the canvas before the forward.
std::vector<double> expected_row(const fake::Behaviour& model, const Request& request,
                                 const std::vector<int32_t>& canvas, int32_t position) {
  const auto prompt = request.prompt.size(), end = prompt + static_cast<size_t>(request.max_tokens);
  const int32_t scoring = position - (model.logit_shift ? 1 : 0);
  std::vector<int32_t> seen = canvas;
  seen.resize(static_cast<size_t>(seen_end(model, request, scoring)));
  std::vector<double> row;
  for (int32_t id = 0; id < kVocab; ++id) {
    double x = static_cast<double>(fake::logit(model, fake::hash_of(seen), scoring, id));
    double count = 0;
    for (size_t i = prompt; i < end; ++i) count += canvas[i] == id && static_cast<int32_t>(i) != position;
    if (id == kMask || std::ranges::count(request.eos_token_ids, id)) count = 0;
    const bool repeated = count > 0 || (id != kMask && std::ranges::count(request.prompt, id));
    const auto penalty = static_cast<double>(request.repetition_penalty);
    if (repeated) x = x > 0 ? x / penalty : x * penalty;
    x -= static_cast<double>(request.frequency_penalty) * count;
    if (count > 0) x -= static_cast<double>(request.presence_penalty);
    for (const auto [biased, bias] : request.logit_bias) {
      if (biased == id) x = bias == -100 ? -INFINITY : x + static_cast<double>(bias);
    }
    row.push_back(x);
  }
  return row;
}

std::vector<double> softmax(std::vector<double> row) {
  double total = 0;
  for (double& x : row) total += x = std::exp(x);
  for (double& p : row) p /= total;
  return row;
}

std::vector<double> probabilities_at(const fake::Behaviour& model, const Request& request,
                                     const std::vector<int32_t>& canvas, int32_t position) {
  return softmax(expected_row(model, request, canvas, position));
}

struct Choice {
  int32_t token = -1;
  double probability = 0;
};

// The most probable id that is none of those.
Choice best_but(const std::vector<double>& probabilities, const std::set<int32_t>& excluded) {
  Choice best;
  for (int32_t id = 0; id < kVocab; ++id) {
    const double p = probabilities[static_cast<size_t>(id)];
    if (p > best.probability && !excluded.contains(id)) best = {id, p};
  }
  return best;
}

// Of each position and id, as algorithm credit counts it with its defaults.
using Credits = std::map<int32_t, std::map<int32_t, double>>;

// Ids that no algorithm writes, but for one that reads control tokens.
const std::set<int32_t> kNoText = {kMask, kDelete, kSplit};

// After the rules: the position's best token gains credit in this step already, and all credit counts in its logits.
void add_credit(std::map<int32_t, double>& credits, std::vector<double>& row) {
  const Choice best = best_but(softmax(row), kNoText);
  for (auto& [id, credit] : credits) credit *= .8;
  credits[best.token] += std::pow(best.probability, .2);
  for (const auto& [id, credit] : credits) row[static_cast<size_t>(id)] += .7 * std::log(credit + 1);
}

// Checks every token that a step wrote or replaced; how many. Its algorithm reads no control tokens.
int expect_formula(const fake::Behaviour& model, const Request& request, const Event& event, Credits& credits) {
  int checked = 0;
  for (size_t i = 0; i < event.snapshot_tokens.size(); ++i) {
    const auto position = static_cast<int32_t>(request.prompt.size() + i) + event.snapshot_offset;
    const int32_t token = event.snapshot_tokens[i];
    const int32_t before = event.canvas_before[static_cast<size_t>(position)];
    const bool changed = token >= 0 && token != before, credited = request.algorithm == "credit" && before == kMask;
    if (!changed && !credited) continue;
    std::vector<double> row = expected_row(model, request, event.canvas_before, position);
    if (credited) add_credit(credits[position], row);
    if (!changed) continue;
    const Choice expected = best_but(softmax(std::move(row)), kNoText);
    EXPECT_EQ(token, expected.token) << "position " << position;
    EXPECT_NEAR(event.snapshot_confidences[i], expected.probability, 1e-5) << "position " << position;
    ++checked;
  }
  return checked;
}

struct Slot {
  int32_t token = -1;  // -1: masked
  double confidence = 0;
};
constexpr double kUnknown = -1;

// One step of levenshtein with edit_threshold 0, whatever its schedule: a masked slot stays or takes its row's best
// token, a written one takes it in any case. DELETE removes the slot, SPLIT puts a mask before what stood there, the
// others follow; masks fill up. Searches the moves that lead from one state of the block to the next.
class Moves {
 public:
  Moves(std::span<const Slot> before, std::span<const Slot> after, std::span<const std::vector<double>> rows)
      : before_(before), after_(after), rows_(rows), left_(before.size()) {}

  // `second`: slots may take their second choice, as they do to leave a loop.
  bool explained(bool second) {
    second_ = second;
    return follow(0, 0);
  }
  int count() const { return moves_; }                     // deletes and splits of the moves found
  const std::vector<Slot>& left() const { return left_; }  // the block after them, each token with its own confidence

 private:
  // Slots from `slot` on lead to what stands from `at` on.
  bool follow(size_t slot, size_t at) {
    if (slot == before_.size()) {
      while (at < after_.size() && put({}, at)) ++at;
      return at >= after_.size();
    }
    const Slot& old = before_[slot];
    if (old.token < 0 && put(old, at) && follow(slot + 1, at + 1)) return true;
    const Choice best = best_but(rows_[slot], {kMask});
    if (take(slot, best, at)) return true;
    return second_ && take(slot, best_but(rows_[slot], {kMask, best.token}), at);
  }

  bool take(size_t slot, const Choice& choice, size_t at) {
    const Slot& old = before_[slot];
    if (choice.token == old.token && put(old, at) && follow(slot + 1, at + 1)) return true;
    if (choice.token != kDelete && choice.token != kSplit) return write(slot, choice, at);
    // The last step of a block fills it with text.
    const bool filled = std::ranges::none_of(after_, [](const Slot& s) { return s.token < 0; });
    if (filled && write(slot, best_but(rows_[slot], {kMask, kDelete, kSplit}), at)) return true;
    const bool split = choice.token == kSplit;
    const bool followed = split ? put({}, at) && put(old, at + 1) && follow(slot + 1, at + 2) : follow(slot + 1, at);
    if (followed) ++moves_;
    return followed;
  }

  bool write(size_t slot, const Choice& choice, size_t at) {
    return put({choice.token, choice.probability}, at) && follow(slot + 1, at + 1);
  }

  // What is pushed out of the block is lost. Where the same token comes to stand the place keeps its confidence; that
  // of the token is not seen, so that it counts as unknown until the slot is written again.
  bool put(const Slot& slot, size_t at) {
    if (at >= after_.size()) return true;
    left_[at] = slot;
    if (slot.token != after_[at].token) return false;
    if (slot.confidence == kUnknown || std::abs(slot.confidence - after_[at].confidence) < 1e-5) return true;
    left_[at].confidence = kUnknown;
    return slot.token == before_[at].token;
  }

  std::span<const Slot> before_, after_;
  std::span<const std::vector<double>> rows_;
  std::vector<Slot> left_;
  bool second_ = false;
  int moves_ = 0;
};

struct MovesSeen {
  int steps = 0, moves = 0, loops = 0;
};

// The answer ends with a block, so that snapshots show whole blocks.
void expect_moves(const fake::Behaviour& model, const Request& request, const Stream& stream, MovesSeen& seen) {
  std::vector<Slot> slots;
  int32_t block = -1;
  for (const Event& event : stream.events) {
    if (event.snapshot_tokens.empty()) continue;
    if (event.snapshot_block != block) slots.assign(event.snapshot_tokens.size(), {});
    block = event.snapshot_block;
    std::vector<Slot> after;
    std::vector<std::vector<double>> rows;
    for (size_t i = 0; i < slots.size(); ++i) {
      after.push_back({event.snapshot_tokens[i], static_cast<double>(event.snapshot_confidences[i])});
      const auto position = static_cast<int32_t>(request.prompt.size() + i) + event.snapshot_offset;
      rows.push_back(probabilities_at(model, request, event.canvas_before, position));
    }
    Moves moves(slots, after, rows);
    const bool first_choices = moves.explained(false);
    ASSERT_TRUE(first_choices || moves.explained(true)) << "step " << event.denoise_steps;
    slots = moves.left();
    ++seen.steps;
    seen.loops += !first_choices;
    seen.moves += moves.count();
  }
}

TEST_P(RulesOfEveryAlgorithm, EveryWrittenTokenIsTheBestOfThePenalisedSoftmax) {
  const bool moving = algorithm().reads_controls;
  MovesSeen seen;
  const fake::Behaviour model = behaviour();
  Client client(model, options());
  for (size_t prompt = 1; prompt <= 6; ++prompt) {
    Request penalised = request(prompt, moving ? 4 * kBlock - static_cast<int32_t>(prompt) : 3 * kBlock + 2);
    penalised.snapshots = penalised.trace = true;
    std::vector<std::vector<int32_t>> answers = {client.run(penalised).tokens()};
    const auto with = [&](auto change) {
      Request changed = penalised;
      change(changed);
      if (moving) changed.logit_bias.insert(changed.logit_bias.end(), {{kDelete, 3}, {kSplit, 3}});
      const Stream stream = client.run(changed);
      answers.push_back(stream.tokens());
      if (moving) return expect_moves(model, changed, stream, seen);
      int checked = 0;
      Credits credits;
      for (const Event& event : stream.events) checked += expect_formula(model, changed, event, credits);
      EXPECT_GE(checked, changed.max_tokens);
    };
    with([](Request& r) { r.repetition_penalty = 1.7f; });
    with([](Request& r) { r.repetition_penalty = 0.25f; });
    with([](Request& r) { r.presence_penalty = -2, r.frequency_penalty = 0.5f; });
    with([](Request& r) { r.frequency_penalty = -2; });
    with([](Request& r) { r.logit_bias = {{5, 3.5f}, {30, -4}, {9, -100}, {50, 2}}; });
    with([](Request& r) {
      r.frequency_penalty = -1.5f, r.presence_penalty = 1, r.repetition_penalty = 1.3f;
      r.logit_bias = {{5, 4}, {9, -3}, {12, -100}};
      r.eos_token_ids = {12};
    });
    std::ranges::sort(answers);
    const auto different = std::unique(answers.begin(), answers.end()) - answers.begin();
    EXPECT_GE(different, 3) << "the fields have an effect";
  }
  if (!moving) return;
  EXPECT_GT(seen.moves, seen.steps / 4);
  EXPECT_LT(10 * seen.loops, seen.steps);
}

std::string name_of_case(const ::testing::TestParamInfo<std::tuple<decode::OnModel, bool>>& tested) {
  return std::get<0>(tested.param).name() + (std::get<1>(tested.param) ? "_shifted" : "");
}
INSTANTIATE_TEST_SUITE_P(Registry, RulesOfEveryAlgorithm,
                         ::testing::Combine(::testing::ValuesIn(decode::algorithms_on_models()), ::testing::Bool()),
                         name_of_case);

TEST(LogitRules, GuidedLogitsAreEditedAfterTheGuidance) {
  Client client;
  Request guided = ask({1, 2}, 9, "llada_schedule", {{"cfg_scale", 1.5}});
  guided.logit_bias = {{42, 100}};
  EXPECT_EQ(client.run(guided).tokens(), std::vector<int32_t>(9, 42));
}

TEST(LogitRules, ATraceHoldsTheModelsOwnLogits) {
  Client client;
  Request traced = ask({1, 2}, 3);
  traced.trace = true;
  const auto first_logits = [&] {
    const Stream stream = client.run(traced);
    for (const Event& event : stream.events) {
      if (event.first_logits.defined()) return event.first_logits;
    }
    return Tensor();
  };
  const Tensor plain = first_logits();
  traced.logit_bias = {{3, -100}, {4, 50}};
  const Tensor biased = first_logits();
  for (int64_t i = 0; i < plain.numel(); ++i) ASSERT_EQ(plain.data<float>()[i], biased.data<float>()[i]);
}

TEST(LogitRules, ARequestIsTheSameAloneAndAmongNeighboursWithOtherRules) {
  std::vector<Request> requests;
  for (int32_t i = 0; i < 6; ++i) {
    requests.push_back(ask({1, 2 + i}, 13 + i, "confidence_threshold", {{"block_length", int64_t{5}}}));
    requests.back().temperature = i % 2 ? 0.9f : 0;
    if (i % 3) requests.back().frequency_penalty = 0.5f * static_cast<float>(i);
    if (i % 3 == 2) requests.back().frequency_penalty = 2, requests.back().logit_bias = {{i, 5}, {40, -100}};
    if (i == 4) requests.back().repetition_penalty = 1.5f, requests.back().min_p = 0.2f;
  }
  std::vector<std::vector<int32_t>> alone;
  for (const Request& request : requests) alone.push_back(Client().run(request).tokens());
  Client together;
  std::vector<RequestId> ids;
  for (const Request& request : requests) ids.push_back(together.submit(request));
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(together.stream(ids[i]).tokens(), alone[i]);
}

std::vector<std::tuple<int32_t, float, float>> plain(std::span<const LogitEdit> edits) {
  std::vector<std::tuple<int32_t, float, float>> out;
  for (const LogitEdit& edit : edits) out.emplace_back(edit.id, edit.factor, edit.bias);
  return out;
}
using Plain = std::vector<std::tuple<int32_t, float, float>>;

TEST(LogitRules, CountWhatIsWrittenButNotTheRowsOwnTokenNorWhatEndsTheAnswer) {
  Request request = ask({5, kMask, 5, 6}, 4);
  request.eos_token_ids = {9};
  request.repetition_penalty = 2;
  request.presence_penalty = 1;
  request.frequency_penalty = 0.5f;
  request.logit_bias = {{6, 3}};
  const LogitRules rules(request, kMask);
  decode::Canvas canvas(request.prompt, request.max_tokens, kMask, 6);  // 4 prompt, 4 of the answer, 4 behind it
  canvas.commit(4, 6, 1);
  canvas.commit(6, 7, 1);
  canvas.commit(7, 9, 1);
  canvas.commit(9, 8, 1);
  std::vector<std::vector<LogitEdit>> storage;
  RowEdits edits(rules, canvas, storage);
  const Plain masked = {{5, 2, 0}, {6, 2, 1.5f}, {7, 2, -1.5f}};
  EXPECT_EQ(plain(edits.of(5)), masked);
  EXPECT_EQ(plain(edits.of(8)), masked) << "behind the answer";
  EXPECT_EQ(edits.of(5).data(), edits.of(10).data()) << "rows share a list";
  EXPECT_EQ(plain(edits.of(6)), (Plain{{5, 2, 0}, {6, 2, 1.5f}})) << "its own token does not count";
  EXPECT_EQ(plain(edits.of(4)), (Plain{{5, 2, 0}, {6, 2, 3}, {7, 2, -1.5f}})) << "but in the prompt it does";
  EXPECT_EQ(plain(edits.of(7)), masked);
  EXPECT_TRUE(edits.of(3).empty()) << "prompt";
}

TEST(LogitRules, HolesWithTextBehindThemTakeNoEndAndTheFirstTokensNoStopEither) {
  Request request = ask({1, 2}, 4);
  request.rest = {-1, 5, -1, -1, 6, -1};  // positions 2 to 7
  request.eos_token_ids = {9};
  request.stop_token_ids = {11};
  request.logit_bias = {{9, 4}};
  const auto at = [&](int32_t position) { return plain(LogitRules(request, kMask).fixed(position)); };
  const Plain open = {{9, 1, 4}}, inner = {{9, 1, kBanned}}, early = {{9, 1, kBanned}, {11, 1, kBanned}};
  for (const int32_t position : {2, 4, 5, 6}) EXPECT_EQ(at(position), inner) << position;
  EXPECT_EQ(at(7), open);
  request.min_tokens = 2;
  EXPECT_EQ(at(2), early);
  EXPECT_EQ(at(4), early) << "the second generated token";
  EXPECT_EQ(at(5), inner);
  request.min_tokens = 4;
  EXPECT_EQ(at(7), early);
}

TEST(LogitRules, ATokenCountsAsOftenAsItStandsThere) {
  Request request = ask({1}, 6);
  request.frequency_penalty = -0.5f;
  const LogitRules rules(request, kMask);
  decode::Canvas canvas(request.prompt, request.max_tokens, kMask);
  for (const int32_t position : {1, 3, 5}) canvas.commit(position, 4, 1);
  std::vector<std::vector<LogitEdit>> storage;
  RowEdits edits(rules, canvas, storage);
  EXPECT_EQ(plain(edits.of(2)), (Plain{{4, 1, 1.5f}}));
  EXPECT_EQ(plain(edits.of(3)), (Plain{{4, 1, 1.0f}}));
}

TEST(LogitRules, WithoutAFieldThereAreNoEdits) {
  const LogitRules rules(ask({1, 2}, 3), kMask);
  decode::Canvas canvas(std::vector<int32_t>{1, 2}, 3, kMask);
  canvas.commit(3, 5, 1);
  std::vector<std::vector<LogitEdit>> storage;
  for (int32_t position = 0; position < 5; ++position) {
    EXPECT_TRUE(RowEdits(rules, canvas, storage).of(position).empty());
  }
  EXPECT_TRUE(storage.empty());
}

}  // namespace
}  // namespace pydllm::engine

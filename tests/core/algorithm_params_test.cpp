// Parameter tables: what is accepted, what is refused and how it is named, and that nothing accepted is ignored.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <sstream>

#include "base/check.h"
#include "base/errors.h"
#include "decode/algorithm.h"
#include "decode_driver.h"
#include "models/registry.h"

namespace pydllm::decode {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
const std::set<std::string_view> kTypedFields = {
    "block_length", "max_steps_per_block", "confidence_threshold", "entropy_threshold",
    "cache",        "allow_edits",         "edit_threshold",       "cache_refresh_interval"};

std::string field_of(std::string_view name) {
  return format(kTypedFields.contains(name) ? "diffusion." : "diffusion.extra.", name);
}

// The one error that checking these parameters gives.
template <class Expected>
Expected refusal(std::string_view algorithm, const ParamMap& params, std::optional<AttentionKind> attention = {}) {
  try {
    const Algorithm& found = find_algorithm(algorithm);
    check_params(found, attention.value_or(first_attention(found)), params);
  } catch (const Expected& error) {
    return error;
  }
  ADD_FAILURE() << algorithm << " accepted the parameters";
  return Expected("", "");
}

// On every kind of model.
template <class Body>
void for_every_param(Body body) {
  for (const OnModel& on : algorithms_on_models()) {
    for (const ParamSpec& spec : on.algorithm->params) {
      if (!spec.attention.contains(on.attention)) continue;
      SCOPED_TRACE(format(on.name(), ".", spec.name));
      body(on, spec);
    }
  }
}

ParamMap checked(const OnModel& on, const ParamMap& params) {
  return check_params(*on.algorithm, on.attention, params);
}

bool is_number(const ParamSpec& spec) {
  return spec.type == ParamType::kInt || spec.type == ParamType::kFloat;
}

// Candidates that are in range; together they must show an effect.
std::vector<ParamValue> sample_values(const ParamSpec& spec) {
  std::vector<ParamValue> values;
  if (spec.type == ParamType::kBool) return {false, true};
  for (const std::string_view choice : spec.choices) values.emplace_back(std::string(choice));
  if (spec.type == ParamType::kInt) {
    for (const int64_t value : {1, 2, 3, 5, 30, 70}) values.emplace_back(value);
    values.emplace_back(static_cast<int64_t>(spec.maximum));
  }
  if (spec.type == ParamType::kFloat) {
    for (const double value : {spec.minimum, .05, .3, .7, spec.maximum}) values.emplace_back(value);
  }
  return values;
}

std::vector<ParamValue> bad_values(const ParamSpec& spec) {
  if (spec.type == ParamType::kBool) return {int64_t{1}, 1.0, std::string("true")};
  if (spec.type == ParamType::kChoice) return {std::string(), std::string("nonsense"), int64_t{0}, 0.0, true};
  std::vector<ParamValue> values = {true,
                                    false,
                                    std::string("1"),
                                    kNan,
                                    kInfinity,
                                    -kInfinity,
                                    1e300,
                                    std::numeric_limits<int64_t>::max(),
                                    std::numeric_limits<int64_t>::min(),
                                    static_cast<int64_t>(spec.minimum) - 1,
                                    static_cast<int64_t>(spec.maximum) + 1,
                                    std::nextafter(spec.minimum, -kInfinity),
                                    std::nextafter(spec.maximum, kInfinity)};
  if (spec.type == ParamType::kInt) values.emplace_back(1.5);
  return values;
}

TEST(AlgorithmTables, NamesAreUniqueAndFound) {
  std::set<std::string_view> seen;
  for (const Algorithm* algorithm : algorithms()) {
    EXPECT_TRUE(seen.insert(algorithm->name).second) << algorithm->name;
    EXPECT_EQ(&find_algorithm(algorithm->name), algorithm);
    for (const std::string_view alias : algorithm->aliases) {
      EXPECT_TRUE(seen.insert(alias).second) << alias;
      EXPECT_EQ(&find_algorithm(alias), algorithm);
    }
    EXPECT_FALSE(algorithm->summary.empty());
    EXPECT_FALSE(algorithm->source.empty());
  }
  EXPECT_TRUE(seen.contains("llada_schedule"));
  EXPECT_TRUE(seen.contains("fast_dllm"));
  EXPECT_TRUE(seen.contains("EntropyThreshold"));
}

TEST(AlgorithmTables, UnknownAlgorithmListsTheKnownOnes) {
  std::string names;
  for (const Algorithm* algorithm : algorithms()) names += format(names.empty() ? "" : ", ", algorithm->name);
  for (const char* name : {"", "llada", "LLADA_SCHEDULE", "confidence_threshold "}) {
    try {
      find_algorithm(name);
      FAIL() << name;
    } catch (const InvalidRequest& error) {
      EXPECT_EQ(error.field(), "algorithm");
      EXPECT_EQ(error.what(), format("algorithm: expected one of ", names, ", got '", name, "'"));
    }
  }
}

TEST(AlgorithmTables, DeclarationsAreSound) {
  std::set<std::pair<std::string, std::string_view>> names;
  for_every_param([&](const OnModel& on, const ParamSpec& spec) {
    EXPECT_TRUE(names.insert({on.name(), spec.name}).second);
    EXPECT_TRUE(spec.alias.empty() || names.insert({on.name(), spec.alias}).second);
    EXPECT_FALSE(spec.help.empty());
    EXPECT_EQ(spec.choices.empty(), spec.type != ParamType::kChoice);
    EXPECT_TRUE(!is_number(spec) || spec.minimum < spec.maximum);
  });
}

TEST(AlgorithmTables, DefaultsAreValuesOfTheirRange) {
  for_every_param([](const OnModel& on, const ParamSpec& spec) {
    if (spec.type == ParamType::kChoice) {
      EXPECT_NO_THROW(checked(on, {{std::string(spec.name), std::string(spec.default_value)}}));
    } else if (is_number(spec) && std::isdigit(static_cast<unsigned char>(spec.default_value.front())) != 0) {
      EXPECT_NO_THROW(checked(on, {{std::string(spec.name), std::stod(std::string(spec.default_value))}}));
    } else if (spec.type == ParamType::kBool) {
      EXPECT_TRUE(spec.default_value == "true" || spec.default_value == "false") << spec.default_value;
    } else {
      EXPECT_TRUE(spec.default_value == "max_tokens" || spec.default_value == "block_length") << spec.default_value;
    }
  });
}

// What a parameter needs to be accepted at all, or to make a difference in these short blocks.
ParamMap with_company(const ParamSpec& spec, ParamMap params) {
  if (spec.name == "mode") params.emplace_back("steps_per_block", int64_t{8});
  const bool cached = spec.name == "cache_delay_iter" || spec.name == "cache_refresh_interval";
  if (cached) params.emplace_back("cache", std::string("delayed"));
  return params;
}

// What a request does from its first plan to its last write, as text.
std::string behaviour(const OnModel& on, const ParamMap& params) {
  std::ostringstream out;
  for (const uint64_t levels : {100, 1000}) {  // with ties and nearly without
    Driver driver({.max_tokens = 70, .mask_id = 9, .block_length = 32, .attention = on.attention}, on.algorithm->name,
                  params);
    const StatsOf stats = random_stats(4, levels, 9);
    while (!driver.done() && driver.forwards < 1000) {
      driver.step(stats);
      out << driver.plan.query_begin << ' ' << driver.plan.query_end << ' ' << driver.plan.rows.size() << ' '
          << driver.plan.guided << ' ' << driver.plan.guidance_scale << ':';
      for (const int32_t token : visible(driver.canvas)) out << token << ' ';
    }
  }
  return out.str();
}

// d3LLM's: decides which block may be forced, and the only block that is ever forced passes every value of it.
// MultiBlockEntropy.IsTheLoopOfTheOriginal runs the original's loop with it.
bool is_without_effect(const Algorithm& algorithm, const ParamSpec& spec) {
  return algorithm.name == "multi_block_entropy" && spec.name == "decoded_token_threshold";
}

TEST(AlgorithmTables, EveryParameterChangesWhatHappens) {
  for_every_param([](const OnModel& on, const ParamSpec& spec) {
    if (is_without_effect(*on.algorithm, spec)) return;
    std::set<std::string> seen;
    for (const ParamValue& value : sample_values(spec)) {
      try {
        seen.insert(behaviour(on, with_company(spec, {{std::string(spec.name), value}})));
      } catch (const InvalidRequest& error) {
        EXPECT_EQ(error.field(), "diffusion.extra.steps");
      }
    }
    EXPECT_GE(seen.size(), 2u) << "no value of it has an effect";
  });
}

TEST(AlgorithmTables, AliasesMeanTheSame) {
  for_every_param([](const OnModel& on, const ParamSpec& spec) {
    if (spec.alias.empty()) return;
    for (const ParamValue& value : sample_values(spec)) {
      EXPECT_EQ(checked(on, {{std::string(spec.alias), value}}), checked(on, {{std::string(spec.name), value}}));
    }
  });
}

TEST(AlgorithmTables, DeclaredDefaultsAreTheRealOnes) {
  for_every_param([](const OnModel& on, const ParamSpec& spec) {
    ParamValue value;
    if (spec.default_value == "max_tokens") {
      value = int64_t{70};
    } else if (spec.default_value == "block_length") {
      value = int64_t{32};
    } else if (spec.type == ParamType::kChoice) {
      value = std::string(spec.default_value);
    } else if (spec.type == ParamType::kBool) {
      value = spec.default_value == "true";
    } else {
      value = std::stod(std::string(spec.default_value));
    }
    EXPECT_EQ(behaviour(on, with_company(spec, {{std::string(spec.name), value}})),
              behaviour(on, with_company(spec, {})));
  });
}

TEST(AlgorithmTables, ParametersOfTheDelayedCacheAreRefusedWithoutIt) {
  for (const char* name : {"cache_delay_iter", "cache_refresh_interval"}) {
    try {
      Driver({}, "multi_block_entropy", {{name, int64_t{3}}});
      ADD_FAILURE() << name << " accepted";
    } catch (const InvalidRequest& error) {
      EXPECT_EQ(error.field(), field_of(name));
      EXPECT_EQ(error.what(), format(name, ": expected with cache delayed only, got cache none"));
    }
  }
  EXPECT_NO_THROW(Driver({}, "multi_block_entropy", {{"cache_refresh_interval", int64_t{0}}})) << "never is neutral";
}

TEST(CheckParams, EveryValueOutOfRangeIsRefusedByName) {
  for_every_param([](const OnModel& on, const ParamSpec& spec) {
    for (const ParamValue& value : bad_values(spec)) {
      for (const std::string_view name : {spec.name, spec.alias}) {
        if (name.empty()) continue;
        const auto error = refusal<InvalidRequest>(on.algorithm->name, {{std::string(name), value}}, on.attention);
        EXPECT_EQ(error.field(), field_of(name));
        EXPECT_EQ(std::string_view(error.what()).substr(0, name.size() + 11), format(name, ": expected "))
            << error.what();
        EXPECT_NE(std::string_view(error.what()).find(", got "), std::string_view::npos) << error.what();
      }
    }
  });
}

TEST(CheckParams, BothEndsOfARangeAreAccepted) {
  for_every_param([](const OnModel& on, const ParamSpec& spec) {
    if (!is_number(spec)) return;
    EXPECT_NO_THROW(checked(on, {{std::string(spec.name), spec.minimum}}));
    EXPECT_NO_THROW(checked(on, {{std::string(spec.name), spec.maximum}}));
  });
}

TEST(CheckParams, ValuesComeOutInTheTypeOfTheTable) {
  const Algorithm& llada = find_algorithm("llada_schedule");
  EXPECT_EQ(check_params(llada, AttentionKind::kFull, {{"steps", 8.0}, {"cfg_scale", int64_t{2}}}),
            (ParamMap{{"steps", int64_t{8}}, {"cfg_scale", 2.0}}));
  EXPECT_EQ(check_params(find_algorithm("fast_dllm"), AttentionKind::kFull, {{"threshold", int64_t{1}}}),
            (ParamMap{{"confidence_threshold", 1.0}}));
  EXPECT_TRUE(check_params(llada, AttentionKind::kFull, {}).empty());
}

TEST(CheckParams, MessagesSayWhatWasExpectedAndWhatCame) {
  const auto message = [](std::string_view algorithm, const std::string& name, const ParamValue& value) {
    return std::string(refusal<InvalidRequest>(algorithm, {{name, value}}).what());
  };
  EXPECT_EQ(message("llada_schedule", "block_length", int64_t{0}),
            "block_length: expected an integer in [1, 1000000], got 0");
  EXPECT_EQ(message("llada_schedule", "steps", 2.5), "steps: expected an integer in [1, 1000000], got 2.5");
  EXPECT_EQ(message("llada_schedule", "steps", true), "steps: expected an integer in [1, 1000000], got true");
  EXPECT_EQ(message("llada_schedule", "remasking", std::string("best")),
            "remasking: expected one of low_confidence, random, got 'best'");
  EXPECT_EQ(message("fast_dllm", "confidence_threshold", kNan),
            "confidence_threshold: expected a number in [0, 1], got nan");
  EXPECT_EQ(message("fast_dllm", "threshold", 1.5), "threshold: expected a number in [0, 1], got 1.5");
}

TEST(CheckParams, TypedFieldOfAnotherAlgorithmIsUnsupported) {
  const auto error = refusal<Unsupported>("llada_schedule", {{"max_steps_per_block", int64_t{4}}});
  EXPECT_EQ(error.field(), "diffusion.max_steps_per_block");
  EXPECT_STREQ(error.what(),
               "max_steps_per_block: algorithm llada_schedule has no such parameter (it has steps, block_length, "
               "remasking, cache, cfg_scale)");
  EXPECT_EQ(refusal<Unsupported>("confidence_threshold", {{"entropy_threshold", .5}}).field(),
            "diffusion.entropy_threshold");
  EXPECT_EQ(refusal<Unsupported>("entropy_threshold", {{"confidence_threshold", .5}}).field(),
            "diffusion.confidence_threshold");
  EXPECT_EQ(refusal<Unsupported>("confidence_threshold", {{"cache_refresh_interval", int64_t{4}}}).field(),
            "diffusion.cache_refresh_interval");
}

TEST(CheckParams, AParameterOfModelsWithOtherAttentionIsUnsupported) {
  int refused = 0;
  for (const OnModel& on : algorithms_on_models()) {
    for (const ParamSpec& spec : on.algorithm->params) {
      if (spec.attention.contains(on.attention)) continue;
      for (const ParamValue& value : sample_values(spec)) {
        const auto error = refusal<Unsupported>(on.algorithm->name, {{std::string(spec.name), value}}, on.attention);
        EXPECT_EQ(error.field(), field_of(spec.name));
      }
      ++refused;
    }
  }
  EXPECT_EQ(refused, 9) << "block_length, remasking and cache of three algorithms";
  const auto message = [](const char* name) {
    return std::string(
        refusal<Unsupported>("near_max", {{name, std::string("dual")}}, AttentionKind::kBlockCausal).what());
  };
  for (const char* name : {"cache", "remasking", "block_length"}) {
    EXPECT_EQ(message(name), format(name,
                                    ": algorithm near_max has it for models with full attention only, got it for "
                                    "one with block-causal attention (where it has confidence_threshold, "
                                    "max_steps_per_block)"));
  }
}

TEST(CheckParams, UnknownNamesListTheKnownOnes) {
  for (const char* name : {"steps", "temprature", "Block_length", ""}) {
    const auto error = refusal<InvalidRequest>("confidence_threshold", {{name, int64_t{4}}});
    EXPECT_EQ(error.field(), format("diffusion.extra.", name));
    EXPECT_EQ(error.what(),
              format("'", name,
                     "': expected a parameter of confidence_threshold (confidence_threshold, block_length, "
                     "max_steps_per_block, remasking, cache)"));
  }
}

TEST(CheckParams, TheSameParameterTwiceIsRefused) {
  const auto twice = refusal<InvalidRequest>("fast_dllm", {{"confidence_threshold", .5}, {"threshold", .5}});
  EXPECT_EQ(twice.field(), "diffusion.extra.threshold");
  EXPECT_STREQ(twice.what(), "threshold: expected one value, got confidence_threshold twice");
  EXPECT_EQ(refusal<InvalidRequest>("llada_schedule", {{"steps", int64_t{5}}, {"steps", int64_t{5}}}).field(),
            "diffusion.extra.steps");
}

TEST(CheckParams, HostileTextStaysOnOneLineOfAscii) {
  const std::string hostile = std::string("a\nb\r\t\x1b[31m\xff'") + std::string(5000, 'x') + '\0';
  for (const ParamMap& params : {ParamMap{{hostile, int64_t{1}}}, ParamMap{{"remasking", hostile}}}) {
    const auto error = refusal<InvalidRequest>("llada_schedule", params);
    const std::string text = error.what() + error.field();
    EXPECT_LT(text.size(), 400u);
    EXPECT_TRUE(std::ranges::all_of(text, [](char c) { return c >= 0x20 && c < 0x7f; })) << text;
  }
}

// --- the documentation says what the tables say ---

std::string trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(" `");
  const auto end = text.find_last_not_of(" `");
  return begin == std::string_view::npos ? "" : std::string(text.substr(begin, end - begin + 1));
}

// Rows of the page's table "| name | type | default | range | given as | meaning |", cells without backquotes; of the
// last one, what it says of models, and not of "given as".
std::vector<std::vector<std::string>> documented_params(std::istream& page) {
  std::vector<std::vector<std::string>> rows;
  bool inside = false;
  for (std::string line; std::getline(page, line);) {
    std::vector<std::string> cells;
    std::istringstream parts(line);
    for (std::string cell; std::getline(parts, cell, '|');) cells.push_back(trimmed(cell));
    const bool header = cells.size() >= 5 && cells[1] == "name" && cells[2] == "type" && cells[3] == "default";
    inside = header || (inside && line.starts_with("|"));
    if (inside && !header && !line.starts_with("|-") && !line.starts_with("| -")) {
      rows.emplace_back(cells.begin() + 1, cells.begin() + 5);
      const std::string kPart = "; full attention only";
      rows.back().push_back(cells.size() > 6 && cells[6].ends_with(kPart) ? kPart : "");
    }
  }
  return rows;
}

std::string type_text(ParamType type) {
  switch (type) {
    case ParamType::kBool:
      return "bool";
    case ParamType::kInt:
      return "int";
    case ParamType::kFloat:
      return "float";
    case ParamType::kChoice:
      return "choice";
  }
  return "";
}

std::string range_text(const ParamSpec& spec) {
  if (spec.type == ParamType::kBool) return "true, false";
  if (is_number(spec)) return format(static_cast<int64_t>(spec.minimum), " to ", static_cast<int64_t>(spec.maximum));
  std::string out;
  for (const std::string_view choice : spec.choices) out += format(out.empty() ? "" : ", ", choice);
  return out;
}

TEST(AlgorithmDocs, EveryPageHasTheTableOfTheRegistry) {
  const auto docs = std::filesystem::path(PYDLLM_TESTS) / "../docs/algorithms";
  std::set<std::string> pages;
  for (const Algorithm* algorithm : algorithms()) {
    SCOPED_TRACE(algorithm->name);
    std::ifstream page(docs / format(algorithm->name, ".md"));
    ASSERT_TRUE(page.good()) << "no page";
    std::vector<std::vector<std::string>> expected;
    for (const ParamSpec& spec : algorithm->params) {
      const bool partly =
          runs_on(*algorithm, AttentionKind::kBlockCausal) && !spec.attention.contains(AttentionKind::kBlockCausal);
      expected.push_back({std::string(spec.name), type_text(spec.type), std::string(spec.default_value),
                          range_text(spec), partly ? "; full attention only" : ""});
    }
    EXPECT_EQ(documented_params(page), expected);
    pages.insert(format(algorithm->name, ".md"));
  }
  for (const auto& entry : std::filesystem::directory_iterator(docs)) {
    EXPECT_TRUE(pages.contains(entry.path().filename().string()))
        << entry.path().filename() << " describes no algorithm";
  }
}

// "| architecture | name | default |" of the page.
std::set<std::vector<std::string>> documented_defaults(std::istream& page) {
  std::set<std::vector<std::string>> rows;
  bool inside = false;
  for (std::string line; std::getline(page, line);) {
    std::vector<std::string> cells;
    std::istringstream parts(line);
    for (std::string cell; std::getline(parts, cell, '|');) cells.push_back(trimmed(cell));
    const bool header = cells.size() == 4 && cells[1] == "architecture" && cells[3] == "default";
    if (inside && line.starts_with("| `")) rows.insert({cells.begin() + 1, cells.end()});
    inside = header || (inside && line.starts_with("|"));
  }
  return rows;
}

TEST(AlgorithmDocs, EveryPageHasTheDefaultsOfTheFamilies) {
  const auto docs = std::filesystem::path(PYDLLM_TESTS) / "../docs/algorithms";
  size_t total = 0;
  for (const Algorithm* algorithm : algorithms()) {
    SCOPED_TRACE(algorithm->name);
    std::set<std::vector<std::string>> expected;
    for (const Architecture& architecture : architectures()) {
      for (const AlgorithmDefault& entry : architecture.defaults) {
        if (entry.algorithm != algorithm->name) continue;
        expected.insert({std::string(architecture.name), std::string(entry.param), std::string(entry.value)});
      }
    }
    std::ifstream page(docs / format(algorithm->name, ".md"));
    EXPECT_EQ(documented_defaults(page), expected);
    total += expected.size();
  }
  EXPECT_GT(total, 0u);
}

}  // namespace
}  // namespace pydllm::decode

#include "models/safetensors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <random>

#include "models/json_cursor.h"
#include "safetensors_writer.h"

namespace pydllm {
namespace {

using testing::length_prefix;
using testing::safetensors_bytes;
using testing::TemporaryDirectory;

constexpr std::string_view kTwoTensors =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]}})";

// The message of the InvalidCheckpoint, "" when the file loads. Any other exception escapes and fails the test.
std::string refusal(const std::string& path) {
  try {
    const SafetensorsFile file(path);
  } catch (const InvalidCheckpoint& error) {
    return error.what();
  }
  return "";
}

std::string refusal_of(std::string_view bytes) {
  const TemporaryDirectory directory;
  return refusal(directory.write("model.safetensors", bytes));
}

std::string header_of(std::string_view name, std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return format(R"({")", name, R"(":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)", offsets, "}}");
}

TEST(Safetensors, ReadsEntriesAndValues) {
  const TemporaryDirectory directory;
  std::string data(28, '\0');
  const float values[6] = {1, -2, 3.5, 0, 1e-30f, 7};
  std::memcpy(data.data(), values, sizeof values);
  const BFloat16 halves[2] = {to_bfloat16(1.5f), to_bfloat16(-4.0f)};
  std::memcpy(data.data() + 24, halves, sizeof halves);
  const SafetensorsFile file(directory.write("x.safetensors", safetensors_bytes(kTwoTensors, data)));

  EXPECT_EQ(file.name(), "x.safetensors");
  ASSERT_EQ(file.entries().size(), 2u);
  const Tensor a = file.tensor(file.entries()[0]);
  EXPECT_EQ(a.shape(), (std::vector<int64_t>{2, 3}));
  EXPECT_TRUE(std::equal(values, values + 6, a.data<float>()));
  const Tensor b = file.tensor(file.entries()[1]);
  EXPECT_EQ(b.dtype(), DType::kBF16);
  EXPECT_EQ(to_float(b.data<BFloat16>()[1]), -4.0f);
}

TEST(Safetensors, MapOutlivesTheFileWhileAViewLives) {
  const TemporaryDirectory directory;
  const std::string path = directory.write("x", testing::safetensors_of<float>({{"a", {3}, {1, 2, 3}}}));
  Tensor view;
  {
    const SafetensorsFile file(path);
    view = file.tensor(file.entries()[0]);
  }
  std::filesystem::remove(path);
  EXPECT_EQ(view.data<float>()[2], 3.0f);
}

TEST(Safetensors, UnalignedDataAreReadRight) {
  const TemporaryDirectory directory;
  for (size_t padding = 0; padding < 8; ++padding) {
    const std::string header = header_of("a", "F32", "[2]", "[0,8]") + std::string(padding, ' ');
    const float values[2] = {0.1f, -7.25f};
    const std::string_view data(reinterpret_cast<const char*>(values), sizeof values);
    const SafetensorsFile file(directory.write("x", safetensors_bytes(header, data)));
    const Tensor tensor = file.tensor(file.entries()[0]);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.raw()) % sizeof(float), 0u);
    EXPECT_TRUE(std::equal(values, values + 2, tensor.data<float>()));
  }
}

TEST(Safetensors, EmptyTensorsScalarsAndAnEmptyFileLoad) {
  EXPECT_EQ(refusal_of(safetensors_bytes("{}", "")), "");
  EXPECT_EQ(refusal_of(safetensors_bytes(header_of("a", "F32", "[]", "[0,4]"), "abcd")), "");
  EXPECT_EQ(refusal_of(safetensors_bytes(header_of("a", "F32", "[0,5]", "[0,0]"), "")), "");
  EXPECT_EQ(refusal_of(safetensors_bytes(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                                         R"("b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                                         R"("c":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}   )",
                                         "xy")),
            "");
}

TEST(Safetensors, EveryDtypeOfTheFormatIsAnEntryButOnlySomeHoldATensor) {
  const TemporaryDirectory directory;
  const std::pair<const char*, int> dtypes[] = {{"F64", 8}, {"I64", 8},  {"I32", 4}, {"I16", 2},     {"I8", 1},
                                                {"U8", 1},  {"U16", 2},  {"U32", 4}, {"U64", 8},     {"BOOL", 1},
                                                {"F16", 2}, {"BF16", 2}, {"F32", 4}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  for (const auto& [dtype, bytes] : dtypes) {
    const std::string header = header_of("a", dtype, "[3]", format("[0,", 3 * bytes, "]"));
    const SafetensorsFile file(directory.write("x", safetensors_bytes(header, std::string(3 * bytes, '\0'))));
    EXPECT_EQ(file.entries()[0].dtype_name, dtype);
    if (file.entries()[0].dtype) {
      EXPECT_EQ(file.tensor(file.entries()[0]).nbytes(), static_cast<size_t>(3 * bytes)) << dtype;
    } else {
      EXPECT_THROW(file.tensor(file.entries()[0]), InvalidCheckpoint) << dtype;
    }
  }
}

struct Hostile {
  const char* name;
  std::string bytes;
  const char* part;  // of the message
};

std::vector<Hostile> hostile_files() {
  const auto tensor = [](std::string_view shape, std::string_view offsets, size_t data,
                         std::string_view dtype = "F32") {
    return safetensors_bytes(header_of("t", dtype, shape, offsets), std::string(data, '\0'));
  };
  const auto header = [](std::string_view text) { return safetensors_bytes(text, ""); };
  const auto pair = [](std::string_view first, std::string_view second, size_t data) {
    return safetensors_bytes(format(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)", first,
                                    R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)", second, "}}"),
                             std::string(data, '\0'));
  };
  return {
      {"Empty", "", "at least 8 bytes"},
      {"SevenBytes", std::string(7, '\0'), "at least 8 bytes"},
      {"HeaderLengthZero", length_prefix(0), "expected '{'"},
      {"HeaderLengthZeroWithData", length_prefix(0) + "{}", "expected '{'"},
      {"HeaderLongerThanFile", length_prefix(3) + "{}", "truncated"},
      {"HeaderLengthHuge", length_prefix(~uint64_t{0}) + "{}", "at most 100000000"},
      {"HeaderLengthJustAboveLimit", length_prefix(100'000'001) + "{}", "at most 100000000"},
      {"HeaderLengthAtLimitTruncated", length_prefix(100'000'000) + "{}", "truncated"},
      {"NotUtf8", header("{\"\xff\":{}}"), "UTF-8"},
      {"OverlongUtf8", header("{\"\xc0\xaf\":{}}"), "UTF-8"},
      {"SurrogateUtf8", header("{\"\xed\xa0\x80\":{}}"), "UTF-8"},
      {"TruncatedUtf8", header("{\"\xe2\x82"), "UTF-8"},
      {"LeadingSpace", header(" {}"), "expected '{'"},
      {"Array", header("[]"), "expected '{'"},
      {"Null", header("null"), "expected '{'"},
      {"Unclosed", header("{"), "expected a string"},
      {"TrailingComma", header(R"({"__metadata__":{},})"), "expected a string"},
      {"TrailingText", header("{} {}"), "expected the end"},
      {"NulAfterObject", safetensors_bytes(std::string_view("{}\0", 3), ""), "expected the end"},
      {"DeepNesting", header(R"({"a":)" + std::string(1'000'000, '[')), "expected '{'"},
      {"DeepObjects", header("{\"a\":{\"dtype\":" + std::string(1'000'000, '{')), "expected a string"},
      {"MetadataList", header(R"({"__metadata__":[]})"), "expected '{'"},
      {"MetadataNumber", header(R"({"__metadata__":{"a":1}})"), "expected a string"},
      {"MetadataTwice", header(R"({"__metadata__":{},"__metadata__":{}})"), "duplicate key '__metadata__'"},
      {"MetadataDuplicateKey", header(R"({"__metadata__":{"a":"","a":""}})"), "duplicate key 'a'"},
      {"EntryString", header(R"({"a":"b"})"), "expected '{'"},
      {"EntryEmpty", header(R"({"a":{}})"), "needs dtype, shape and data_offsets"},
      {"NoOffsets", header(R"({"a":{"dtype":"F32","shape":[]}})"), "needs dtype, shape and data_offsets"},
      {"UnknownKey", header(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"x":1}})"), "got 'x'"},
      {"DuplicateKey", header(R"({"a":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,0]}})"), "duplicate"},
      {"DuplicateName",
       header(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
              R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"),
       "duplicate key 'a'"},
      {"DuplicateNameByEscape",
       safetensors_bytes(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                         R"("\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                         ""),
       "duplicate key 'a'"},
      {"UnknownDtype", tensor("[1]", "[0,4]", 4, "F31"), "unknown dtype 'F31'"},
      {"LowerCaseDtype", tensor("[1]", "[0,4]", 4, "f32"), "unknown dtype"},
      {"DtypeNumber", header(R"({"a":{"dtype":1}})"), "expected a string"},
      {"ShapeString", tensor("\"1\"", "[0,4]", 4), "expected '['"},
      {"ShapeNested", tensor("[[1]]", "[0,4]", 4), "expected an integer"},
      {"ShapeNegative", tensor("[-1]", "[0,4]", 4), "expected an integer >= 0, got '-'"},
      {"ShapeFraction", tensor("[1.0]", "[0,4]", 4), "fraction"},
      {"ShapeExponent", tensor("[1e0]", "[0,4]", 4), "fraction or exponent"},
      {"ShapeLeadingZero", tensor("[01]", "[0,4]", 4), "leading zero"},
      {"ShapeBeyondInt64", tensor("[9223372036854775808]", "[0,4]", 4), "below 2^63"},
      {"ShapeBeyondUint64", tensor("[18446744073709551616]", "[0,4]", 4), "below 2^64"},
      {"ProductOverflows", tensor("[4294967296,4294967296]", "[0,4]", 4), "no possible size"},
      {"ProductWrapsToOneElement", tensor("[6148914691236517205,3,1]", "[0,4]", 4), "no possible size"},
      {"BytesOverflow", tensor("[4611686018427387904]", "[0,0]", 0), "no possible size"},
      {"ZeroDoesNotHideOverflow", tensor("[0,4294967296,4294967296]", "[0,0]", 0), "no possible size"},
      {"TooManyExtents", tensor("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,4]", 4),
       "at most 32 extents"},
      {"SubByteRemainder", tensor("[3]", "[0,2]", 2, "F4"), "no possible size"},
      {"OneOffset", tensor("[1]", "[0]", 4), "expected ','"},
      {"ThreeOffsets", tensor("[1]", "[0,4,4]", 4), "expected ']'"},
      {"OffsetsReversed", tensor("[1]", "[4,0]", 4), "not within"},
      {"OffsetNegative", tensor("[1]", "[-4,0]", 4), "expected an integer >= 0"},
      {"OffsetBeyondFile", tensor("[2]", "[0,8]", 4), "not within"},
      {"OffsetHuge", tensor("[1]", "[18446744073709551612,18446744073709551615]", 4), "not within"},
      {"OffsetsTooLongForShape", tensor("[1]", "[0,8]", 8), "needs 4 bytes, has 8"},
      {"OffsetsTooShortForShape", tensor("[2]", "[0,4]", 4), "needs 8 bytes, has 4"},
      {"Overlap", pair("[0,4]", "[2,6]", 6), "begins at data byte 2, expected 4"},
      {"SameRange", pair("[0,4]", "[0,4]", 4), "begins at data byte 0, expected 4"},
      {"Gap", pair("[0,4]", "[5,9]", 9), "begins at data byte 5, expected 4"},
      {"GapAtStart", pair("[1,5]", "[5,9]", 9), "begins at data byte 1, expected 0"},
      {"TrailingData", pair("[0,4]", "[4,8]", 9), "end at data byte 8, the file has 9"},
      {"TruncatedData", pair("[0,4]", "[4,8]", 7), "not within"},
      {"DataWithoutTensors", safetensors_bytes("{}", "x"), "end at data byte 0"},
      {"ControlCharacterInName", header("{\"a\n\":{}}"), "control character"},
      {"LoneSurrogate", header(R"({"\ud800":{}})"), "lone surrogate"},
      {"BadLowSurrogate", header(R"({"\ud800\u0041":{}})"), "low surrogate"},
      {"BadEscape", header(R"({"\x":{}})"), "expected an escape"},
      {"ShortUnicodeEscape", header(R"({"\u12)"), "hexadecimal"},
      {"BackslashAtEnd", header("{\"\\"), "expected an escape"},
  };
}

class HostileFile : public ::testing::TestWithParam<Hostile> {};

TEST_P(HostileFile, IsRefusedInOneLineWithoutADirectory) {
  const std::string message = refusal_of(GetParam().bytes);
  EXPECT_NE(message.find(GetParam().part), std::string::npos) << message;
  EXPECT_TRUE(message.starts_with("model.safetensors: ")) << message;
  EXPECT_EQ(message.find('/'), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 400u);
}

INSTANTIATE_TEST_SUITE_P(Safetensors, HostileFile, ::testing::ValuesIn(hostile_files()),
                         [](const auto& test) { return test.param.name; });

TEST(Safetensors, AbsentFilesDirectoriesAndFifosAreRefused) {
  const TemporaryDirectory directory;
  EXPECT_NE(refusal(directory.file("absent")).find("absent: cannot be opened"), std::string::npos);
  EXPECT_NE(refusal(directory.file("")).find("regular file"), std::string::npos);
  ASSERT_EQ(::mkfifo(directory.file("fifo").c_str(), 0600), 0);
  EXPECT_NE(refusal(directory.file("fifo")).find("regular file"), std::string::npos);
  EXPECT_NE(refusal("/dev/zero").find("regular file"), std::string::npos);
}

TEST(Safetensors, HostileNamesCannotBreakTheLine) {
  const std::string escaped = header_of(R"(\u001b[2J\nevil \u009b)", "F32", "[1]", "[0,8]");
  const std::string message = refusal_of(safetensors_bytes(escaped, std::string(8, '\0')));
  EXPECT_NE(message.find(R"(\x1b[2J\x0aevil \xc2\x9b)"), std::string::npos) << message;
  const TemporaryDirectory directory;
  const std::string odd = refusal(directory.write("a\n\xff.safetensors", "short"));
  EXPECT_TRUE(odd.starts_with(R"(a\x0a\xff.safetensors: )")) << odd;
}

TEST(Safetensors, TruncationAtEveryByteIsRefused) {
  const std::string whole = testing::safetensors_of<float>({{"a", {2}, {1, 2}}, {"b", {1, 1}, {3}}});
  ASSERT_EQ(refusal_of(whole), "");
  const TemporaryDirectory directory;
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_NE(refusal(directory.write("t", std::string_view(whole).substr(0, length))), "") << length;
  }
}

TEST(Safetensors, EscapesDecode) {
  const TemporaryDirectory directory;
  const std::string header = header_of(R"(\u00e9\ud83d\ude42\/\"\\\b\f\n\r\t)", "U8", "[0]", "[0,0]");
  const SafetensorsFile file(directory.write("x", safetensors_bytes(header, "")));
  EXPECT_EQ(file.entries()[0].name, "\xc3\xa9\xf0\x9f\x99\x82/\"\\\b\f\n\r\t");
}

// Reads every byte that an accepted file claims to have.
uint64_t touch(const SafetensorsFile& file) {
  uint64_t sum = 0;
  for (const SafetensorsEntry& entry : file.entries()) {
    if (!entry.dtype) continue;
    const Tensor tensor = file.tensor(entry);
    const auto* bytes = static_cast<const unsigned char*>(tensor.raw());
    for (size_t i = 0; i < tensor.nbytes(); ++i) sum += bytes[i];
    file.release_pages(entry);
  }
  return sum;
}

std::string mutated(std::string bytes, std::mt19937& random) {
  constexpr std::string_view kLikely = "{}[]\",:\\0123456789-eEu\x80\xff \n";
  const size_t edits = 1 + random() % 3;
  for (size_t i = 0; i < edits && !bytes.empty(); ++i) {
    const size_t at = random() % std::min<size_t>(bytes.size(), 200);
    switch (random() % 5) {
      case 0:
        bytes[at] = static_cast<char>(random());
        break;
      case 1:
        bytes[at] = kLikely[random() % kLikely.size()];
        break;
      case 2:
        bytes.insert(at, 1, kLikely[random() % kLikely.size()]);
        break;
      case 3:
        bytes.erase(at, 1 + random() % 4);
        break;
      default:
        bytes.resize(at);
        break;
    }
  }
  return bytes;
}

TEST(Safetensors, MutatedHeadersLoadOrAreRefused) {
  const TemporaryDirectory directory;
  const std::string whole = safetensors_bytes(kTwoTensors, std::string(28, '\1'));
  std::mt19937 random(20240607);
  int loaded = 0, refused = 0;
  for (int i = 0; i < 2000; ++i) {
    const std::string path = directory.write("m", mutated(whole, random));
    try {
      touch(SafetensorsFile(path));
      ++loaded;
    } catch (const InvalidCheckpoint&) {
      ++refused;
    }
  }
  EXPECT_EQ(loaded + refused, 2000);
  EXPECT_GT(loaded, 5);  // a change of a name or of metadata is still a file
  EXPECT_GT(refused, 1000);
}

TEST(JsonCursor, KnowsUtf8) {
  EXPECT_TRUE(is_utf8("a\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"));
  for (const char* bad : {"\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
                          "\xf5\x80\x80\x80", "\xc2", "\xe2\x82", "\xf0\x9f\x99", "\xe2\x28\xa1"}) {
    EXPECT_FALSE(is_utf8(bad)) << printable(bad);
  }
}

}  // namespace
}  // namespace pydllm

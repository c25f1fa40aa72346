#include "models/json_cursor.h"

#include <array>

#include "base/check.h"

namespace pydllm {
namespace {

constexpr size_t kShownBytes = 96;

// Length of the UTF-8 sequence at the start of `s`, 0 when it is malformed, overlong, a surrogate or beyond U+10FFFF.
size_t utf8_sequence(std::string_view s) {
  const auto byte = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
  const auto tail = [&](size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned lead = byte(0), second = byte(1);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return tail(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F)) return 0;
    return tail(1) && tail(2) ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    if ((lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F)) return 0;
    return tail(1) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

void append_utf8(std::string& out, uint32_t code) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = static_cast<unsigned char>(text[i]) < 0x80 ? 1 : utf8_sequence(text.substr(i));
    if (length == 0) return false;
    i += length;
  }
  return true;
}

std::string printable(std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out;
  for (const char c : text.substr(0, kShownBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7F) {
      out.push_back(c);
    } else {
      out.append({'\\', 'x', kHex[byte >> 4], kHex[byte & 15]});
    }
  }
  return text.size() > kShownBytes ? out + "..." : out;
}

JsonCursor::JsonCursor(std::string_view text) : text_(text) {
  if (!is_utf8(text)) throw JsonError("expected UTF-8 text, got invalid bytes");
}

void JsonCursor::fail(std::string_view message) const {
  throw JsonError(format("byte ", at_, ": ", message));
}

std::string JsonCursor::found() const {
  return at_ < text_.size() ? format("'", printable(text_.substr(at_, 1)), "'") : "the end";
}

void JsonCursor::skip_space() {
  while (at_ < text_.size() && is_space(text_[at_])) ++at_;
}

bool JsonCursor::consume(char punctuation) {
  skip_space();
  if (at_ >= text_.size() || text_[at_] != punctuation) return false;
  ++at_;
  return true;
}

void JsonCursor::expect(char punctuation) {
  if (!consume(punctuation)) fail(format("expected '", punctuation, "', got ", found()));
}

void JsonCursor::expect_end() {
  skip_space();
  if (at_ != text_.size()) fail(format("expected the end, got ", found()));
}

std::string JsonCursor::string() {
  skip_space();
  if (at_ >= text_.size() || text_[at_] != '"') fail(format("expected a string, got ", found()));
  ++at_;
  std::string out;
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (static_cast<unsigned char>(c) < 0x20) fail("expected no control character in a string");
    ++at_;
    if (c == '"') return out;
    if (c == '\\') {
      escape(out);
    } else {
      out.push_back(c);
    }
  }
  fail("expected '\"', got the end");
}

// text_[at_ - 1] is the backslash.
void JsonCursor::escape(std::string& out) {
  constexpr std::string_view kNames = "\"\\/bfnrt";
  constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
  if (at_ >= text_.size()) fail("expected an escape, got the end");
  const char c = text_[at_];
  if (c == 'u') return append_utf8(out, code_point());
  const size_t which = kNames.find(c);
  if (which == std::string_view::npos) fail(format("expected an escape, got ", found()));
  out.push_back(kMeanings[which]);
  ++at_;
}

// text_[at_] is the 'u' of \uXXXX.
uint32_t JsonCursor::code_point() {
  ++at_;
  const uint32_t first = four_hex_digits();
  if (first < 0xD800 || first > 0xDFFF) return first;
  if (first > 0xDBFF || text_.substr(at_, 2) != "\\u") fail("expected no lone surrogate");
  at_ += 2;
  const uint32_t second = four_hex_digits();
  if (second < 0xDC00 || second > 0xDFFF) fail("expected a low surrogate");
  return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
}

uint32_t JsonCursor::four_hex_digits() {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i, ++at_) {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    const char lower = static_cast<char>(c | 0x20);
    if (is_digit(c)) {
      value = value * 16 + static_cast<uint32_t>(c - '0');
    } else if (lower >= 'a' && lower <= 'f') {
      value = value * 16 + static_cast<uint32_t>(lower - 'a' + 10);
    } else {
      fail(format("expected a hexadecimal digit, got ", found()));
    }
  }
  return value;
}

uint64_t JsonCursor::unsigned_integer() {
  skip_space();
  if (at_ >= text_.size() || !is_digit(text_[at_])) fail(format("expected an integer >= 0, got ", found()));
  const size_t begin = at_;
  uint64_t value = 0;
  for (; at_ < text_.size() && is_digit(text_[at_]); ++at_) {
    if (__builtin_mul_overflow(value, uint64_t{10}, &value) ||
        __builtin_add_overflow(value, static_cast<uint64_t>(text_[at_] - '0'), &value)) {
      fail("expected an integer below 2^64");
    }
  }
  if (text_[begin] == '0' && at_ - begin > 1) fail("expected no leading zero");
  if (at_ < text_.size() && std::string_view(".eE").find(text_[at_]) != std::string_view::npos) {
    fail("expected an integer, got a fraction or exponent");
  }
  return value;
}

}  // namespace pydllm

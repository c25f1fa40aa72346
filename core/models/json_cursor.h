// A strict forward reader over a JSON text (RFC 8259) for formats whose structure is known: the caller asks for what
// must come next. It never recurses, so nesting cannot exhaust the stack.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace pydllm {

// What is wrong, with the byte offset in the text; one line.
struct JsonError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class JsonCursor {
 public:
  // Throws JsonError unless `text` is UTF-8. The text must outlive the cursor.
  explicit JsonCursor(std::string_view text);

  // The methods skip white space first; those that name what they want throw JsonError when something else comes.
  bool consume(char punctuation);
  void expect(char punctuation);
  void expect_end();
  std::string string();  // lone surrogates and raw control characters are refused
  uint64_t unsigned_integer();

  [[noreturn]] void fail(std::string_view message) const;

 private:
  void skip_space();
  std::string found() const;
  void escape(std::string& out);
  uint32_t code_point();
  uint32_t four_hex_digits();

  std::string_view text_;
  size_t at_ = 0;
};

bool is_utf8(std::string_view text);

// Untrusted text for a one-line message: printable ASCII stays, other bytes become \xNN, at most 96 bytes are shown.
std::string printable(std::string_view text);

}  // namespace pydllm

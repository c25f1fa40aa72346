// What the C++ peers of the linear benchmark share: bench/linear.py starts each peer as a process and speaks to it line
// by line, so that the peers take turns on one core.
//   setup DTYPE M N K COPIES   ->  "ok TEXT"          builds COPIES copies of the weight, used in rotation
//   time CALLS                 ->  CPU seconds of each call
//   row                        ->  the first 8 numbers of y's last row, to see that all peers compute the same
#pragma once

#include <time.h>

#include <cstdint>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace bench {

struct Shape {
  bool bf16 = false;
  int64_t rows = 0, outputs = 0, depth = 0;
  int copies = 0;
};

// A product prepared by a peer.
struct Product {
  std::string description;
  std::function<void(int copy)> multiply;
  std::function<float(int64_t index)> result;  // y as one flat array
};

// Numbers in [-0.5, 0.5) that every peer makes alike and that bfloat16 represents exactly (7 bits).
inline float operand(int64_t i) {
  const auto hash = static_cast<uint32_t>(i) * 2654435761u;
  return static_cast<float>(static_cast<int>(hash >> 25) - 64) / 128.0f;
}

inline std::vector<float> operands(int64_t count, int64_t seed) {
  std::vector<float> out(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) out[static_cast<size_t>(i)] = operand(i + seed);
  return out;
}

// Time on other people's processes does not count.
inline double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

inline void time_calls(const Product& product, int copies, int calls, int& next_copy) {
  for (int i = 0; i < calls; ++i) {
    const double begin = cpu_seconds();
    product.multiply(next_copy);
    std::cout << cpu_seconds() - begin << (i + 1 < calls ? " " : "");
    next_copy = (next_copy + 1) % copies;
  }
  std::cout << std::endl;
}

inline void print_row(const Product& product, const Shape& shape) {
  for (int64_t i = 0; i < 8; ++i) std::cout << product.result((shape.rows - 1) * shape.outputs + i) << " ";
  std::cout << std::endl;
}

inline int serve(const std::function<Product(const Shape&)>& prepare) {
  Shape shape;
  Product product;
  int next_copy = 0;
  std::cout.precision(9);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command, dtype;
    int calls = 0;
    words >> command;
    if (command == "setup" && words >> dtype >> shape.rows >> shape.outputs >> shape.depth >> shape.copies) {
      shape.bf16 = dtype == "bfloat16";
      product = {};
      product = prepare(shape);
      next_copy = 0;
      std::cout << "ok " << product.description << std::endl;
    } else if (command == "time" && words >> calls) {
      time_calls(product, shape.copies, calls, next_copy);
    } else if (command == "row") {
      print_row(product, shape);
    } else {
      std::cerr << "unknown command: " << line << "\n";
      return 2;
    }
  }
  return 0;
}

}  // namespace bench

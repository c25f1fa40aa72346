#include "models/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>

#include "models/json_cursor.h"

namespace pydllm {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data are little-endian");

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own library
constexpr size_t kMaxRank = 32;
constexpr uint64_t kMaxExtent = std::numeric_limits<int64_t>::max();

struct StoredType {
  std::string_view name;
  unsigned bits;
  std::optional<DType> dtype;
};

constexpr StoredType kStoredTypes[] = {
    {"F32", 32, DType::kF32}, {"BF16", 16, DType::kBF16},
    {"F16", 16, DType::kF16}, {"I64", 64, DType::kI64},
    {"I32", 32, DType::kI32}, {"U8", 8, DType::kU8},
    {"F64", 64, {}},          {"U64", 64, {}},
    {"U32", 32, {}},          {"I16", 16, {}},
    {"U16", 16, {}},          {"I8", 8, {}},
    {"BOOL", 8, {}},          {"C64", 64, {}},
    {"F8_E4M3", 8, {}},       {"F8_E5M2", 8, {}},
    {"F8_E4M3FNUZ", 8, {}},   {"F8_E5M2FNUZ", 8, {}},
    {"F8_E8M0", 8, {}},       {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},       {"F4", 4, {}},
};

const StoredType* find_stored_type(std::string_view name) {
  const auto at = std::find_if(std::begin(kStoredTypes), std::end(kStoredTypes),
                               [&](const StoredType& type) { return type.name == name; });
  return at == std::end(kStoredTypes) ? nullptr : &*at;
}

std::string base_name(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  return printable(slash == std::string::npos ? path : path.substr(slash + 1));
}

// Closes the descriptor at the end of the scope; the memory map does not need it.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

// --- the header ---

class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : json_(text) {
    if (text.empty() || text.front() != '{') json_.fail("expected '{' at the start of the header");
  }

  // Offsets of the entries count from the start of the data section.
  std::vector<SafetensorsEntry> parse() {
    std::set<std::string> names;
    for_each_member([&](std::string name) {
      refuse_repeated(name, names.insert(name).second);
      if (name == "__metadata__") {
        read_metadata();
      } else {
        entries_.push_back(entry(std::move(name)));
      }
    });
    json_.expect_end();
    return std::move(entries_);
  }

 private:
  template <class Member>
  void for_each_member(Member&& member) {
    json_.expect('{');
    if (json_.consume('}')) return;
    do {
      std::string key = json_.string();
      json_.expect(':');
      member(std::move(key));
    } while (json_.consume(','));
    json_.expect('}');
  }

  void refuse_repeated(const std::string& key, bool is_new) {
    if (!is_new) json_.fail(format("duplicate key '", printable(key), "'"));
  }

  void read_metadata() {
    std::set<std::string> keys;
    for_each_member([&](std::string key) {
      refuse_repeated(key, keys.insert(key).second);
      json_.string();
    });
  }

  SafetensorsEntry entry(std::string name) {
    SafetensorsEntry out;
    out.name = std::move(name);
    bool dtype = false, shape = false, offsets = false;
    for_each_member([&](const std::string& key) {
      if (key == "dtype") {
        refuse_repeated(key, !std::exchange(dtype, true));
        read_dtype(out);
      } else if (key == "shape") {
        refuse_repeated(key, !std::exchange(shape, true));
        read_shape(out);
      } else if (key == "data_offsets") {
        refuse_repeated(key, !std::exchange(offsets, true));
        read_offsets(out);
      } else {
        json_.fail(format("expected dtype, shape or data_offsets, got '", printable(key), "'"));
      }
    });
    if (!dtype || !shape || !offsets) {
      json_.fail(format("'", printable(out.name), "' needs dtype, shape and data_offsets"));
    }
    return out;
  }

  void read_dtype(SafetensorsEntry& out) {
    out.dtype_name = json_.string();
    const StoredType* type = find_stored_type(out.dtype_name);
    if (type == nullptr) {
      json_.fail(format("'", printable(out.name), "' has unknown dtype '", printable(out.dtype_name), "'"));
    }
    out.dtype = type->dtype;
  }

  void read_shape(SafetensorsEntry& out) {
    json_.expect('[');
    if (json_.consume(']')) return;
    do {
      const uint64_t extent = json_.unsigned_integer();
      if (extent > kMaxExtent || out.shape.size() == kMaxRank) {
        json_.fail(format("'", printable(out.name), "': expected at most ", kMaxRank, " extents below 2^63"));
      }
      out.shape.push_back(static_cast<int64_t>(extent));
    } while (json_.consume(','));
    json_.expect(']');
  }

  void read_offsets(SafetensorsEntry& out) {
    json_.expect('[');
    out.begin = json_.unsigned_integer();
    json_.expect(',');
    out.end = json_.unsigned_integer();
    json_.expect(']');
  }

  JsonCursor json_;
  std::vector<SafetensorsEntry> entries_;
};

// --- offsets against shapes and against each other ---

// Throws std::overflow_error when it does not fit int64: such a tensor cannot be in any file. An extent of zero does
// not excuse the others: the product of the rest must fit too.
uint64_t stored_bytes(const SafetensorsEntry& entry) {
  int64_t bits = find_stored_type(entry.dtype_name)->bits;
  bool empty = false;
  for (const int64_t extent : entry.shape) {
    empty = empty || extent == 0;
    if (extent != 0 && __builtin_mul_overflow(bits, extent, &bits)) throw std::overflow_error("shape");
  }
  if (empty) return 0;
  if (bits % 8 != 0) throw std::overflow_error("shape");
  return static_cast<uint64_t>(bits) / 8;
}

void check_entry(const std::string& file, const SafetensorsEntry& entry, uint64_t data_bytes) {
  const auto refuse = [&](const std::string& what) {
    throw InvalidCheckpoint(file, format(file, ": tensor '", printable(entry.name), "': ", what));
  };
  if (entry.begin > entry.end || entry.end > data_bytes) {
    refuse(format("data_offsets [", entry.begin, ", ", entry.end, "] are not within the file's ", data_bytes,
                  " data bytes"));
  }
  uint64_t needed = 0;
  try {
    needed = stored_bytes(entry);
  } catch (const std::overflow_error&) {
    refuse(format("shape ", shape_string(entry.shape), " of ", entry.dtype_name, " is no possible size"));
  }
  if (needed != entry.end - entry.begin) {
    refuse(format("shape ", shape_string(entry.shape), " of ", entry.dtype_name, " needs ", needed, " bytes, has ",
                  entry.end - entry.begin));
  }
}

// Sorted by offset, the tensors must tile the data section.
void check_tiling(const std::string& file, const std::vector<SafetensorsEntry>& entries, uint64_t data_bytes) {
  std::vector<size_t> order(entries.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto range = [&](size_t i) { return std::pair(entries[i].begin, entries[i].end); };
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return range(a) < range(b); });
  uint64_t covered = 0;
  for (const size_t i : order) {
    if (entries[i].begin != covered) {
      throw InvalidCheckpoint(file, format(file, ": tensor '", printable(entries[i].name), "' begins at data byte ",
                                           entries[i].begin, ", expected ", covered, " (no overlap, no gap)"));
    }
    covered = entries[i].end;
  }
  if (covered != data_bytes) {
    throw InvalidCheckpoint(file,
                            format(file, ": the tensors end at data byte ", covered, ", the file has ", data_bytes));
  }
}

}  // namespace

// Owns the map; shared by the file and every view of it.
struct SafetensorsFile::Impl {
  std::string name;
  const char* map = nullptr;
  size_t size = 0;
  std::vector<SafetensorsEntry> entries;

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (map != nullptr) ::munmap(const_cast<char*>(map), size);
  }

  [[noreturn]] void refuse(const std::string& what) const { throw InvalidCheckpoint(name, format(name, ": ", what)); }
  void open(const std::string& path);
  void read_header();
};

void SafetensorsFile::Impl::open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) refuse(format("cannot be opened: ", std::strerror(errno)));
  struct stat status{};
  if (::fstat(file.fd, &status) != 0) refuse(format("cannot be examined: ", std::strerror(errno)));
  if (!S_ISREG(status.st_mode)) refuse("expected a regular file");
  if (static_cast<uint64_t>(status.st_size) < kLengthBytes) {
    refuse(format("expected at least ", kLengthBytes, " bytes, got ", status.st_size));
  }
  const auto bytes = static_cast<size_t>(status.st_size);
  void* address = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (address == MAP_FAILED) refuse(format("cannot be mapped: ", std::strerror(errno)));
  map = static_cast<const char*>(address);
  size = bytes;
}

void SafetensorsFile::Impl::read_header() {
  uint64_t length = 0;
  std::memcpy(&length, map, kLengthBytes);
  if (length > kMaxHeaderBytes)
    refuse(format("expected a header of at most ", kMaxHeaderBytes, " bytes, got ", length));
  if (length > size - kLengthBytes) {
    refuse(format("the header needs ", length, " bytes, the file has ", size - kLengthBytes, " (truncated?)"));
  }
  try {
    entries = HeaderParser(std::string_view(map + kLengthBytes, length)).parse();
  } catch (const JsonError& error) {
    refuse(format("header: ", error.what()));
  }
  const uint64_t data_begin = kLengthBytes + length;
  const uint64_t data_bytes = size - data_begin;
  for (const SafetensorsEntry& entry : entries) check_entry(name, entry, data_bytes);
  check_tiling(name, entries, data_bytes);
  for (SafetensorsEntry& entry : entries) {
    entry.begin += data_begin;
    entry.end += data_begin;
  }
}

SafetensorsFile::SafetensorsFile(const std::string& path) {
  auto impl = std::make_shared<Impl>();
  impl->name = base_name(path);
  impl->open(path);
  impl->read_header();
  impl_ = std::move(impl);
}

SafetensorsFile::~SafetensorsFile() = default;

const std::string& SafetensorsFile::name() const noexcept {
  return impl_->name;
}

const std::vector<SafetensorsEntry>& SafetensorsFile::entries() const noexcept {
  return impl_->entries;
}

Tensor SafetensorsFile::tensor(const SafetensorsEntry& entry) const {
  if (!entry.dtype) {
    const std::string name = printable(entry.name);
    throw InvalidCheckpoint(name, format(name, ": dtype ", entry.dtype_name, " cannot be loaded"));
  }
  const char* data = impl_->map + entry.begin;
  if (reinterpret_cast<uintptr_t>(data) % size_of(*entry.dtype) == 0) {
    return Tensor::borrow(const_cast<char*>(data), entry.shape, *entry.dtype, Device{}, impl_);
  }
  Tensor copy = Tensor::empty(entry.shape, *entry.dtype);
  std::memcpy(copy.raw(), data, entry.end - entry.begin);
  return copy;
}

void SafetensorsFile::release_pages(const SafetensorsEntry& entry) const {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = (entry.begin + page - 1) / page * page;
  const uint64_t end = entry.end / page * page;
  // Only advice: a kernel that refuses it costs memory, not correctness.
  if (begin < end) ::madvise(const_cast<char*>(impl_->map) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace pydllm

#include "cache/page_pool.h"

#include <limits>

#include "base/check.h"

namespace pydllm {
namespace {

std::string verify_free_list(std::span<const PageId> free, std::span<const int32_t> references) {
  std::vector<bool> seen(references.size());
  for (const PageId page : free) {
    if (page < 0 || static_cast<size_t>(page) >= references.size()) return format("foreign page ", page, " is free");
    const auto index = static_cast<size_t>(page);
    if (seen[index]) return format("page ", page, " is free twice");
    if (references[index] != 0) return format("page ", page, " is free with ", references[index], " references");
    seen[index] = true;
  }
  for (size_t page = 0; page < references.size(); ++page) {
    if (references[page] == 0 && !seen[page]) return format("page ", page, " is neither free nor referenced");
  }
  return "";
}

// Adds the pages of one owner to `owners`; `last_table` holds the index of the last table each page was seen in.
std::string count_table(std::span<const PageId> pages, size_t table, std::vector<int32_t>& owners,
                        std::vector<size_t>& last_table) {
  for (const PageId page : pages) {
    if (page < 0 || static_cast<size_t>(page) >= owners.size()) {
      return format("table ", table, " holds foreign page ", page);
    }
    const auto index = static_cast<size_t>(page);
    if (last_table[index] == table) return format("table ", table, " holds page ", page, " twice");
    last_table[index] = table;
    ++owners[index];
  }
  return "";
}

}  // namespace

PagePool::PagePool(int32_t pages) {
  check(pages >= 0, "pages: expected >= 0, got ", pages);
  references_.resize(static_cast<size_t>(pages));
  free_.reserve(references_.size());
  for (PageId page = pages; page-- > 0;) free_.push_back(page);  // page 0 is handed out first
}

bool PagePool::allocate(int32_t count, std::vector<PageId>& out) {
  check(count >= 0, "count: expected >= 0, got ", count);
  if (count > available()) return false;
  out.reserve(out.size() + static_cast<size_t>(count));  // the only step that can throw comes first
  for (int32_t i = 0; i < count; ++i) {
    const PageId page = free_.back();
    free_.pop_back();
    references_[static_cast<size_t>(page)] = 1;
    out.push_back(page);
  }
  return true;
}

void PagePool::retain(PageId page) {
  check(page >= 0 && page < total() && references_[static_cast<size_t>(page)] > 0, "retain: page ", page,
        " is not allocated");
  int32_t& count = references_[static_cast<size_t>(page)];
  check(count < std::numeric_limits<int32_t>::max(), "retain: page ", page, " has too many references");
  ++count;
}

void PagePool::release(PageId page) {
  check(page >= 0 && page < total() && references_[static_cast<size_t>(page)] > 0, "release: page ", page,
        " is not allocated");
  if (--references_[static_cast<size_t>(page)] == 0) free_.push_back(page);
}

std::string PagePool::verify(std::span<const std::span<const PageId>> tables) const {
  std::string violation = verify_free_list(free_, references_);
  std::vector<int32_t> owners(references_.size());
  std::vector<size_t> last_table(references_.size(), std::numeric_limits<size_t>::max());
  for (size_t table = 0; table < tables.size() && violation.empty(); ++table) {
    violation = count_table(tables[table], table, owners, last_table);
  }
  for (size_t page = 0; page < owners.size() && violation.empty(); ++page) {
    if (owners[page] == references_[page]) continue;
    violation = format("page ", page, " has ", references_[page], " references but ", owners[page], " owners");
  }
  return violation;
}

}  // namespace pydllm

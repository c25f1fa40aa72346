// Who owns which K/V page. Ids and counts only; the memory is in kv_cache.h.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pydllm {

using PageId = int32_t;

// Reference-counted page ids with a free list. Single-threaded: the engine thread owns it.
class PagePool {
 public:
  explicit PagePool(int32_t pages);

  int32_t total() const noexcept { return static_cast<int32_t>(references_.size()); }
  int32_t available() const noexcept { return static_cast<int32_t>(free_.size()); }
  int32_t used() const noexcept { return total() - available(); }

  // Appends `count` pages with one reference each to `out` and returns true, or changes nothing and returns false.
  bool allocate(int32_t count, std::vector<PageId>& out);
  void retain(PageId page);   // InternalError unless allocated
  void release(PageId page);  // InternalError unless allocated; the last reference frees the page

  // Compares the counts with the page tables of every owner: free + owned = total, counts match, nothing twice in one
  // table, nothing both free and owned. Returns "" or the first violation in words.
  std::string verify(std::span<const std::span<const PageId>> tables) const;

 private:
  std::vector<int32_t> references_;
  std::vector<PageId> free_;
};

}  // namespace pydllm

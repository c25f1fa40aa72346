#include "cache/page_pool.h"

#include <algorithm>
#include <map>

#include "op_testing.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;
using Table = std::vector<PageId>;

std::string verify(const PagePool& pool, const std::vector<Table>& tables) {
  std::vector<std::span<const PageId>> spans(tables.begin(), tables.end());
  return pool.verify(spans);
}

TEST(PagePool, AllocatesAllOrNothing) {
  PagePool pool(3);
  Table pages;
  EXPECT_FALSE(pool.allocate(4, pages));
  EXPECT_TRUE(pages.empty());
  EXPECT_EQ(pool.available(), 3);
  EXPECT_TRUE(pool.allocate(2, pages));
  EXPECT_FALSE(pool.allocate(2, pages));
  EXPECT_EQ(pages.size(), 2u);
  EXPECT_TRUE(pool.allocate(0, pages));
  EXPECT_TRUE(pool.allocate(1, pages));
  EXPECT_EQ(pool.used(), 3);
  EXPECT_EQ(verify(pool, {pages}), "");
}

TEST(PagePool, TheLastReferenceFreesThePage) {
  PagePool pool(2);
  Table pages;
  ASSERT_TRUE(pool.allocate(1, pages));
  pool.retain(pages[0]);
  pool.release(pages[0]);
  EXPECT_EQ(pool.used(), 1);
  pool.release(pages[0]);
  EXPECT_EQ(pool.used(), 0);
}

TEST(PagePool, DoubleFreeAndForeignPagesAreInternalErrors) {
  PagePool pool(2);
  Table pages;
  ASSERT_TRUE(pool.allocate(1, pages));
  pool.release(pages[0]);
  EXPECT_INTERNAL_ERROR(pool.release(pages[0]), "is not allocated");
  EXPECT_INTERNAL_ERROR(pool.retain(pages[0]), "is not allocated");
  for (const PageId foreign : {-1, 2, 1 << 30}) {
    EXPECT_INTERNAL_ERROR(pool.release(foreign), "is not allocated");
    EXPECT_INTERNAL_ERROR(pool.retain(foreign), "is not allocated");
  }
  EXPECT_INTERNAL_ERROR(pool.allocate(-1, pages), "count");
  EXPECT_INTERNAL_ERROR(PagePool(-1), "pages");
  EXPECT_EQ(verify(pool, {}), "");
}

TEST(PagePool, VerifyNamesTheViolation) {
  PagePool pool(4);
  Table a, b;
  ASSERT_TRUE(pool.allocate(2, a));
  ASSERT_TRUE(pool.allocate(1, b));
  EXPECT_EQ(verify(pool, {a, b}), "");
  EXPECT_EQ(verify(pool, {a}), "page 2 has 1 references but 0 owners");
  EXPECT_EQ(verify(pool, {a, b, b}), "page 2 has 1 references but 2 owners");
  EXPECT_EQ(verify(pool, {a, {2, 2}}), "table 1 holds page 2 twice");
  EXPECT_EQ(verify(pool, {a, b, {3}}), "page 3 has 0 references but 1 owners");
  EXPECT_EQ(verify(pool, {a, b, {4}}), "table 2 holds foreign page 4");
  EXPECT_EQ(verify(pool, {a, b, {-1}}), "table 2 holds foreign page -1");
}

// Owners of random page tables that allocate, share, drop and misuse pages; the model is a count per page.
TEST(PagePool, ThousandsOfRandomOperationsAgreeWithCounting) {
  constexpr int32_t kPages = 37;
  PagePool pool(kPages);
  std::mt19937 random(7);
  std::vector<Table> tables(1);
  std::map<PageId, int> counts;
  const auto pick = [&](size_t n) { return static_cast<size_t>(random() % n); };
  for (int step = 0; step < 20000; ++step) {
    Table& table = tables[pick(tables.size())];
    switch (pick(5)) {
      case 0: {
        const auto wanted = static_cast<int32_t>(pick(6));
        const size_t old = table.size();
        const bool fits = static_cast<size_t>(wanted) + counts.size() <= kPages;
        ASSERT_EQ(pool.allocate(wanted, table), fits);
        ASSERT_EQ(table.size(), old + (fits ? static_cast<size_t>(wanted) : 0));
        for (size_t i = old; i < table.size(); ++i) ASSERT_EQ(++counts[table[i]], 1) << "handed out while in use";
        break;
      }
      case 1:
        if (tables.size() < 12) {
          tables.push_back(Table(tables[pick(tables.size())]));
          for (const PageId page : tables.back()) pool.retain(page), ++counts[page];
        }
        break;
      case 2:
        for (const PageId page : table) {
          pool.release(page);
          if (--counts[page] == 0) counts.erase(page);
        }
        table.clear();
        break;
      case 3:
        if (!table.empty()) {
          const PageId page = table.back();
          table.pop_back();
          pool.release(page);
          if (--counts[page] == 0) counts.erase(page);
        }
        break;
      default: {
        const auto page = static_cast<PageId>(pick(kPages + 4)) - 2;
        if (counts.contains(page)) break;
        ASSERT_THROW(pool.release(page), InternalError);
      }
    }
    ASSERT_EQ(static_cast<size_t>(pool.used()), counts.size());
    ASSERT_EQ(pool.total(), kPages);
    const bool due = step % 16 == 0;
    ASSERT_EQ(due ? verify(pool, tables) : "", "");
  }
}

}  // namespace
}  // namespace pydllm

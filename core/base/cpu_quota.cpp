#include "base/cpu_quota.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

namespace pydllm {
namespace {

namespace fs = std::filesystem;

using Quota = std::optional<double>;

Quota tighter(Quota a, Quota b) {
  if (!a || !b) return a ? a : b;
  return std::min(*a, *b);
}

Quota ratio(double quota, double period) {
  if (quota <= 0 || period <= 0) return {};
  return quota / period;
}

// v2: "max 100000" or "150000 100000".
Quota read_v2(const fs::path& folder) {
  std::ifstream file(folder / "cpu.max");
  double quota = 0, period = 0;
  return file >> quota >> period ? ratio(quota, period) : Quota{};
}

// v1: the quota is -1 where there is none.
Quota read_v1(const fs::path& folder) {
  std::ifstream quota_file(folder / "cpu.cfs_quota_us"), period_file(folder / "cpu.cfs_period_us");
  double quota = 0, period = 0;
  return quota_file >> quota && period_file >> period ? ratio(quota, period) : Quota{};
}

// A limit on any ancestor binds too. Inside a container the named folder may not exist; its ancestors then do.
Quota tightest_upwards(const fs::path& mount, fs::path group, Quota (*read)(const fs::path&)) {
  Quota tightest = read(mount);
  for (; group.has_relative_path(); group = group.parent_path()) {
    tightest = tighter(tightest, read(mount / group.relative_path()));
  }
  return tightest;
}

bool lists_cpu(std::string_view controllers) {
  std::istringstream names{std::string(controllers)};
  for (std::string name; std::getline(names, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

// One line of /proc/self/cgroup: "0::/group" (v2) or "4:cpu,cpuacct:/group" (v1).
Quota quota_of_membership(const std::string& line, const fs::path& mount) {
  const size_t first = line.find(':');
  const size_t second = line.find(':', first == std::string::npos ? first : first + 1);
  if (second == std::string::npos) return {};
  const std::string controllers = line.substr(first + 1, second - first - 1);
  const fs::path group = line.substr(second + 1);
  if (controllers.empty()) {
    return tighter(tightest_upwards(mount, group, read_v2), tightest_upwards(mount / "unified", group, read_v2));
  }
  if (!lists_cpu(controllers)) return {};
  return tighter(tightest_upwards(mount / "cpu", group, read_v1),
                 tightest_upwards(mount / controllers, group, read_v1));
}

}  // namespace

Quota cgroup_cpu_quota(std::string_view memberships, const fs::path& mount) {
  Quota tightest;
  std::istringstream lines{std::string(memberships)};
  for (std::string line; std::getline(lines, line);) tightest = tighter(tightest, quota_of_membership(line, mount));
  return tightest;
}

}  // namespace pydllm

// Private to core/base: the CPU quota that control groups put on this process.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>

namespace pydllm {

// CPUs' worth of time the tightest cgroup (v1 or v2) on the way from the process to the root allows; empty without one.
//   memberships  the text of /proc/self/cgroup
//   mount        where the hierarchies are mounted, normally /sys/fs/cgroup
std::optional<double> cgroup_cpu_quota(std::string_view memberships, const std::filesystem::path& mount);

}  // namespace pydllm

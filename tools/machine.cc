// SPDX-License-Identifier: Apache-2.0
#include "tools/machine.h"

#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstring>
#endif

#include "base/processors.h"

namespace varve::tools {
namespace {

// The line "model name" of the first processor.
std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const auto colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

// "always [madvise] never"
std::string huge_page_setting() {
  const std::string line = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
  const auto open = line.find('['), close = line.find(']');
  if (open == std::string::npos || close == std::string::npos || close < open) return "unknown";
  return line.substr(open + 1, close - open - 1);
}

// Intel's manual leaves leaf 0x40000000 to hypervisors, which give their signature there.
std::string hypervisor_name() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  __cpuid(1, a, b, c, d);
  if ((c & (1u << 31)) == 0) return {};
  __cpuid(0x40000000, a, b, c, d);
  char name[13] = {};
  std::memcpy(name, &b, 4);
  std::memcpy(name + 4, &c, 4);
  std::memcpy(name + 8, &d, 4);
  return name[0] == '\0' ? "unknown" : name;
#else
  return {};
#endif
}

}  // namespace

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

Machine look_at_machine() {
  Machine machine;
  utsname names{};
  if (uname(&names) == 0) {
    machine.kernel = names.release;
    machine.architecture = names.machine;
  }
  struct sysinfo info {};
  if (sysinfo(&info) == 0) machine.memory_bytes = static_cast<std::uint64_t>(info.totalram) * info.mem_unit;
  machine.processor = processor_name();
  machine.processors = usable_processors();
  machine.hypervisor = hypervisor_name();
  machine.virtual_machine = !machine.hypervisor.empty();
  machine.page_bytes = static_cast<std::uint32_t>(sysconf(_SC_PAGESIZE));
  machine.huge_pages = huge_page_setting();
  return machine;
}

nlohmann::json machine_json(const Machine& machine) {
  return {{"processor", machine.processor},   {"processors", machine.processors},
          {"hypervisor", machine.hypervisor}, {"memory_bytes", machine.memory_bytes},
          {"kernel", machine.kernel},         {"architecture", machine.architecture},
          {"page_bytes", machine.page_bytes}, {"transparent_huge_pages", machine.huge_pages}};
}

}  // namespace varve::tools

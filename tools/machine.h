// SPDX-License-Identifier: Apache-2.0
//
// The machine that figures come from.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

namespace varve::tools {

struct Machine {
  std::string processor;    ///< model name
  unsigned processors = 0;  ///< that this process may use
  bool virtual_machine = false;
  std::string hypervisor;  ///< of the processor's hypervisor leaf; empty: none, or unknown
  std::uint64_t memory_bytes = 0;
  std::string kernel;  ///< release
  std::string architecture;
  std::uint32_t page_bytes = 0;
  std::string huge_pages;  ///< transparent: "always", "madvise", "never"; "unknown"
};

Machine look_at_machine();
nlohmann::json machine_json(const Machine& machine);

/// The first line of a small file, or nothing.
std::string first_line(const std::string& path);

}  // namespace varve::tools

// SPDX-License-Identifier: Apache-2.0
//
// What `varve doctor` finds out: each back end, tried; which one an engine with automatic options would take; what
// would make it better.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "storage/io.h"
#include "tools/machine.h"
#include "tools/varve/measured_costs.h"

namespace varve::tools {

struct BackEndRow {
  std::string kind;  ///< "tracker", "capture", "io"
  std::string name;
  bool works = false;
  bool chosen = false;
  std::string remark;  ///< why not, or what is to be known
};

struct Diagnosis {
  Machine machine;
  std::string user;
  bool root = false;
  std::string hash;
  std::vector<BackEndRow> back_ends;
  MeasuredCosts costs;
  std::string directory;
  std::optional<storage::FileSystemTraits> file_system;
  std::string file_system_error;
  std::vector<std::string> advice;
  bool usable = true;  ///< an engine with automatic options and this environment would open there
};

Diagnosis diagnose(const std::string& directory);

/// Marks the row of this kind that is taken: the one that the variable names, else the first of `order` that works.
/// False when the variable names one that does not work or does not exist; its remark says so.
bool choose(std::vector<BackEndRow>& rows, const std::string& kind, const std::vector<std::string>& order,
            const char* variable);

}  // namespace varve::tools

// SPDX-License-Identifier: Apache-2.0
//
// How the kernel maps a range: inspect_mapping() of engine/capture.h, and its parser for tests.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/capture.h"

namespace varve {

/// Collects the mappings that a range meets, from the lines of /proc/PID/maps or /proc/PID/smaps in their order.
/// Lines that it does not know are skipped: kernels add some.
class MappingReader {
 public:
  MappingReader(std::uintptr_t begin, std::uintptr_t end) : end_(end), covered_to_(begin) {}
  /// False once nothing that follows matters.
  bool line(std::string_view line);
  /// After the last line.
  MappingTraits finish();
  /// The ends, within the range, of the mappings of files: where a file that is too short shows first.
  const std::vector<std::uintptr_t>& file_ends() const { return file_ends_; }

 private:
  void flags(std::string_view flags);
  void refuse(std::string reason);

  const std::uintptr_t end_;
  std::uintptr_t covered_to_;  // no hole up to here
  bool within_ = false;        // the last header line met the range
  bool first_ = true;
  MappingTraits traits_;
  std::vector<std::uintptr_t> file_ends_;
};

struct AddressRange {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
};

/// The mappings of a process ("self" or its pid) that fork(2) does not hold for a child though it has them: shared
/// ones, which the child sees change, and those with MADV_WIPEONFORK, which are zero there. Reads smaps, or maps where
/// there is no smaps, which does not tell the second kind.
Result<std::vector<AddressRange>> mappings_not_held_by_fork(const std::string& process);

/// The private anonymous mappings of this process that may be read and written, stacks left out, ascending. Two that
/// touch are two: the kernel tells them apart, so what is done to both at once may fail.
Result<std::vector<AddressRange>> private_anonymous_mappings();

/// The protection that all of a range has (PROT_*); empty where part of it is not mapped. Asks no page tables.
Result<std::optional<std::uint32_t>> protection_of_range(AddressRange range);

/// Calls `consume` with each line of the file until it returns false. The error of opening or reading.
Status read_lines(const std::string& path, const std::function<bool(std::string_view)>& consume);

}  // namespace varve

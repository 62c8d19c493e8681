// SPDX-License-Identifier: Apache-2.0
//
// A segment as text: header, every record with its offset, what lies between them, footer and trailer. Goes on behind
// damage as far as records can be told (docs/formats/segment.md).
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "tools/progress.h"
#include "tools/varve/file_view.h"
#include "varve/result.h"

namespace varve::tools {

struct SegmentViewOptions {
  bool chunks = false;  ///< list the chunks of frames
};

struct SegmentView {
  nlohmann::json json;
  std::string text;
  bool damaged = false;  ///< a record whose checksum is wrong, or one that can't be decoded
};

/// Errors: an unreadable file; a header that is damaged, since nothing behind it can be checked then.
Result<SegmentView> view_segment(const FileView& file, const SegmentViewOptions& options, Progress& progress);

}  // namespace varve::tools

// SPDX-License-Identifier: Apache-2.0
//
// The files report.html, .css and .js beside this one, as they were when this was built (embed.cmake).
#pragma once

#include <string_view>

namespace varve::tools::page {

extern const std::string_view kHtml;
extern const std::string_view kCss;
extern const std::string_view kJs;

}  // namespace varve::tools::page

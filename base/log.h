// SPDX-License-Identifier: Apache-2.0
//
// Messages to standard error, off unless VARVE_LOG asks: VARVE_LOG=LEVEL[:FOLDER[,FOLDER...]], for example
// VARVE_LOG=debug:tracker. Warnings are always shown; each distinct warning of warn_once() only once per process.
// Any thread may log; not for signal handlers or the forked holder.
#pragma once

#include <string_view>

#include <fmt/format.h>

namespace varve::log {

enum class Level : unsigned char { debug, info, warning };

bool enabled(Level level, std::string_view folder);
void write(Level level, std::string_view folder, std::string_view message);
/// Shows each distinct message once per process.
void warn_once(std::string_view folder, std::string_view message);

template <class... Args>
void debug(std::string_view folder, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::debug, folder)) write(Level::debug, folder, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void info(std::string_view folder, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::info, folder)) write(Level::info, folder, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace varve::log

// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <unistd.h>

#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "base/env.h"
#include "base/mutex.h"

namespace varve::log {
namespace {

struct Filter {
  Level level = Level::warning;
  std::vector<std::string> folders;  // empty: all
};

Filter parse(const char* text) {
  Filter filter;
  if (text == nullptr) return filter;
  std::string_view rest(text);
  const auto colon = rest.find(':');
  const auto level = rest.substr(0, colon);
  if (level == "debug") filter.level = Level::debug;
  if (level == "info") filter.level = Level::info;
  while (!rest.empty() && colon != std::string_view::npos) {
    if (filter.folders.empty()) rest = std::string_view(text).substr(colon + 1);
    const auto comma = rest.find(',');
    filter.folders.emplace_back(rest.substr(0, comma));
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
  }
  return filter;
}

const Filter& filter() {
  static const Filter the_filter = parse(std::getenv(env::kLog));
  return the_filter;
}

struct Seen {
  Mutex mutex;
  std::set<std::string, std::less<>> messages VARVE_GUARDED_BY(mutex);
};

}  // namespace

bool enabled(Level level, std::string_view folder) {
  const Filter& active = filter();
  if (level < active.level) return false;
  if (level >= Level::warning || active.folders.empty()) return true;
  for (const auto& name : active.folders)
    if (name == folder) return true;
  return false;
}

void write(Level level, std::string_view folder, std::string_view message) {
  constexpr const char* kNames[] = {"debug", "info", "warning"};
  const auto line = fmt::format("varve {} [{}]: {}\n", kNames[static_cast<unsigned>(level)], folder, message);
  // One write(2), so that lines of several threads do not mix. Nobody can be told when standard error is gone.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

void warn_once(std::string_view folder, std::string_view message) {
  static Seen* const seen = new Seen;  // never destroyed: threads may warn while the process ends
  {
    MutexLock lock(seen->mutex);
    if (!seen->messages.insert(std::string(message)).second) return;
  }
  write(Level::warning, folder, message);
}

}  // namespace varve::log

// SPDX-License-Identifier: Apache-2.0
//
// What an HTML report holds, for tests that look into it.
#pragma once

#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace varve::test {

inline std::size_t count(const std::string& text, std::string_view part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The content of the page's script element of data; discarded where there is none, or it is no JSON.
inline nlohmann::json page_data(const std::string& page) {
  const std::string begin = "<script id=\"report-data\" type=\"application/json\">";
  const auto found = page.find(begin);
  if (found == std::string::npos) return nlohmann::json(nlohmann::json::value_t::discarded);
  const auto at = found + begin.size();
  return nlohmann::json::parse(page.substr(at, page.find("</script>", at) - at), nullptr, false);
}

}  // namespace varve::test

// SPDX-License-Identifier: Apache-2.0
#include "tests/support/hex_document.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <fmt/format.h>

namespace varve::test {

std::string hex_lines(std::span<const std::byte> bytes) {
  std::string text;
  for (std::size_t at = 0; at < bytes.size(); at += 16) {
    const auto line = bytes.subspan(at, std::min<std::size_t>(16, bytes.size() - at));
    if (std::all_of(line.begin(), line.end(), [](std::byte byte) { return byte == std::byte{0}; })) continue;
    text += fmt::format("{:04x}:", at);
    for (const std::byte byte : line) text += fmt::format(" {:02x}", static_cast<unsigned>(byte));
    text += '\n';
  }
  return text;
}

std::string hex_block(std::string_view document, std::string_view name) {
  // This file is tests/support/hex_document.cc of the tree that is tested.
  const auto root = std::filesystem::path(VARVE_SOURCE_DIR);
  std::ifstream file(root / "docs" / "formats" / document);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::string begin = fmt::format("```hex {}\n", name);
  const std::size_t at = text.find(begin);
  if (at == std::string::npos) return {};
  const std::size_t from = at + begin.size();
  return text.substr(from, text.find("```", from) - from);
}

}  // namespace varve::test

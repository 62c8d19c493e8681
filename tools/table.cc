// SPDX-License-Identifier: Apache-2.0
#include "tools/table.h"

#include <algorithm>

#include "base/check.h"

namespace varve::tools {
namespace {

void append_cell(std::string& line, const std::string& cell, std::size_t width, Table::Align align) {
  const std::string space(width - display_width(cell), ' ');
  if (!line.empty()) line += "  ";
  line += align == Table::Align::right ? space + cell : cell + space;
}

}  // namespace

std::size_t display_width(const std::string& text) {
  const auto begins_character = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; };
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), begins_character));
}

void Table::add(std::vector<std::string> row) {
  VARVE_CHECK(row.size() == columns_.size());
  rows_.push_back(std::move(row));
}

std::string Table::text() const {
  std::vector<std::size_t> widths;
  for (const auto& column : columns_) widths.push_back(display_width(column.title));
  for (const auto& row : rows_)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], display_width(row[i]));

  std::string text;
  const auto append_line = [&text](std::string line) {
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  };
  std::string header;
  for (std::size_t i = 0; i < columns_.size(); ++i)
    append_cell(header, columns_[i].title, widths[i], columns_[i].align);
  append_line(header);
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) append_cell(line, row[i], widths[i], columns_[i].align);
    append_line(line);
  }
  return text;
}

}  // namespace varve::tools

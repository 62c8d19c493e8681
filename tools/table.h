// SPDX-License-Identifier: Apache-2.0
//
// A table for people: a header, columns as wide as their widest cell, numbers to the right.
#pragma once

#include <string>
#include <vector>

namespace varve::tools {

class Table {
 public:
  enum class Align : unsigned char { left, right };
  struct Column {
    std::string title;
    Align align = Align::left;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  /// REQUIRES: one cell per column.
  void add(std::vector<std::string> row);
  std::string text() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// The width of UTF-8 text in characters.
std::size_t display_width(const std::string& text);

}  // namespace varve::tools

// SPDX-License-Identifier: Apache-2.0
//
// The worked examples of docs/formats/: blocks of hexadecimal digits that tests compare with the encoders.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace varve::test {

/// As the documents have it: lines "0010: 00 01 ..." of sixteen bytes; those of zeros only are left out.
std::string hex_lines(std::span<const std::byte> bytes);

/// The block "```hex NAME" of docs/formats/DOCUMENT; empty when there is none.
std::string hex_block(std::string_view document, std::string_view name);

}  // namespace varve::test

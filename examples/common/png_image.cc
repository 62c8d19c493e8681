// SPDX-License-Identifier: Apache-2.0
#include "common/png_image.h"

#include <png.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace example {
namespace {

struct Colour {
  double red, green, blue;
};

std::uint8_t level(double value) { return static_cast<std::uint8_t>(std::lround(std::clamp(value, 0.0, 1.0) * 255.0)); }

// Dark blue, teal, sand, white: light grows with the value, so that it reads in grey too.
void paint(double value, std::uint8_t* pixel) {
  static constexpr Colour kStops[] = {{0.03, 0.05, 0.17}, {0.05, 0.42, 0.48}, {0.91, 0.77, 0.42}, {1.0, 1.0, 1.0}};
  const double place = std::clamp(value, 0.0, 1.0) * 3.0;
  const auto index = std::min<std::size_t>(static_cast<std::size_t>(place), 2);
  const double part = place - static_cast<double>(index);
  const Colour& from = kStops[index];
  const Colour& to = kStops[index + 1];
  pixel[0] = level(from.red + part * (to.red - from.red));
  pixel[1] = level(from.green + part * (to.green - from.green));
  pixel[2] = level(from.blue + part * (to.blue - from.blue));
}

}  // namespace

bool write_png(const std::string& path, std::span<const double> field, std::size_t side, double brightest) {
  const std::size_t stride = std::max<std::size_t>(1, (side + 1023) / 1024);
  const std::size_t pixels = (side + stride - 1) / stride;
  std::vector<std::uint8_t> picture(pixels * pixels * 3);
  for (std::size_t y = 0; y < pixels; ++y)
    for (std::size_t x = 0; x < pixels; ++x)
      paint(field[y * stride * side + x * stride] / brightest, &picture[(y * pixels + x) * 3]);

  png_image image;
  std::memset(&image, 0, sizeof image);
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(pixels);
  image.height = static_cast<png_uint_32>(pixels);
  image.format = PNG_FORMAT_RGB;
  if (png_image_write_to_file(&image, path.c_str(), 0, picture.data(), 0, nullptr) != 0) return true;
  std::fprintf(stderr, "write of %s failed: %s; check the path and the space on its file system\n", path.c_str(),
               image.message);
  png_image_free(&image);
  return false;
}

}  // namespace example

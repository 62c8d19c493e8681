// SPDX-License-Identifier: Apache-2.0
//
// Gray-Scott reaction and diffusion of two substances on a square grid, in double precision, one thread: the same
// arguments give the same bits, whether the program was killed and resumed on the way or not.
//
//     du/dt = Du lap(u) - u v^2 + feed (1 - u)
//     dv/dt = Dv lap(v) + u v^2 - (feed + kill) v
//
// Both fields are advanced in place, row by row; the old rows that a row still needs are kept aside.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <span>
#include <thread>
#include <vector>

#include "common/arguments.h"
#include "common/checkpoints.h"
#include "common/png_image.h"
#include "common/state_file.h"

namespace {

enum class Boundary : std::uint8_t { periodic, fixed };

class GrayScott {
 public:
  GrayScott(std::size_t side, Boundary boundary)
      : side_(side), boundary_(boundary), u_(side * side, 1.0), v_(side * side, 0.0), u_rows_(side), v_rows_(side) {}

  /// Squares of substance v, spread by a fixed recurrence.
  void seed();
  void advance();

  std::vector<double>& u() { return u_; }
  std::vector<double>& v() { return v_; }

 private:
  // Old rows of one field, each with a cell of border at both ends.
  struct Rows {
    explicit Rows(std::size_t side) : first(side + 2), above(side + 2), here(side + 2), below(side + 2) {}
    std::vector<double> first, above, here, below;
  };

  void keep(const std::vector<double>& field, std::size_t row, std::vector<double>& into) const;
  void advance_row(std::size_t row);

  static constexpr double kDiffusionU = 0.16, kDiffusionV = 0.08, kFeed = 0.060, kKill = 0.062;
  // Less of v than this is none. It keeps the empty part of the grid exactly as it was, and subnormal numbers away.
  static constexpr double kNothing = 1e-30;

  std::size_t side_;
  Boundary boundary_;
  std::vector<double> u_, v_;
  Rows u_rows_, v_rows_;
};

void GrayScott::seed() {
  std::uint64_t state = 0x2545f4914f6cdd1d;
  const auto next = [&state](std::uint64_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>((state >> 33) % bound);
  };
  const std::size_t width = std::clamp<std::size_t>(side_ / 64, 2, 16);
  const std::size_t spots = std::clamp<std::size_t>(side_ / 48, 2, 40);
  for (std::size_t spot = 0; spot < spots; ++spot) {
    const std::size_t top = 1 + next(side_ - width - 2), left = 1 + next(side_ - width - 2);
    for (std::size_t y = top; y < top + width; ++y)
      for (std::size_t x = left; x < left + width; ++x) {
        u_[y * side_ + x] = 0.50;
        v_[y * side_ + x] = 0.25 + 0.01 * static_cast<double>(next(10));
      }
  }
}

void GrayScott::keep(const std::vector<double>& field, std::size_t row, std::vector<double>& into) const {
  const double* from = field.data() + row * side_;
  std::copy(from, from + side_, into.begin() + 1);
  into.front() = from[side_ - 1];
  into.back() = from[0];
}

void GrayScott::advance_row(std::size_t row) {
  const std::size_t edge = boundary_ == Boundary::fixed ? 1 : 0;  // fixed: the border cells stay as they are
  double* u_row = u_.data() + row * side_;
  double* v_row = v_.data() + row * side_;
  for (std::size_t x = edge; x < side_ - edge; ++x) {
    const double u = u_rows_.here[x + 1], v = v_rows_.here[x + 1];
    const double lap_u = u_rows_.above[x + 1] + u_rows_.below[x + 1] + u_rows_.here[x] + u_rows_.here[x + 2] - 4.0 * u;
    const double lap_v = v_rows_.above[x + 1] + v_rows_.below[x + 1] + v_rows_.here[x] + v_rows_.here[x + 2] - 4.0 * v;
    const double reaction = u * v * v;
    const double new_v = v + kDiffusionV * lap_v + reaction - (kFeed + kKill) * v;
    u_row[x] = u + kDiffusionU * lap_u - reaction + kFeed * (1.0 - u);
    v_row[x] = new_v < kNothing ? 0.0 : new_v;
  }
}

void GrayScott::advance() {
  struct Field {
    std::vector<double>& cells;
    Rows& rows;
  };
  const Field fields[] = {{u_, u_rows_}, {v_, v_rows_}};
  for (const auto& field : fields) {
    keep(field.cells, side_ - 1, field.rows.above);  // the grid closes on itself
    keep(field.cells, 0, field.rows.here);
    field.rows.first = field.rows.here;
  }
  for (std::size_t row = 0; row < side_; ++row) {
    for (const auto& field : fields) {
      if (row + 1 < side_)
        keep(field.cells, row + 1, field.rows.below);
      else
        field.rows.below = field.rows.first;
    }
    if (boundary_ == Boundary::periodic || (row != 0 && row != side_ - 1)) advance_row(row);
    for (const auto& field : fields) {
      std::swap(field.rows.above, field.rows.here);
      std::swap(field.rows.here, field.rows.below);
    }
  }
}

varve::Status simulate(const example::Arguments& arguments, GrayScott& grid, std::uint64_t& step,
                       example::Checkpoints& checkpoints) {
  const std::size_t bytes = grid.u().size() * sizeof(double);
  if (auto ok = checkpoints.protect("u", grid.u().data(), bytes, sizeof(double)); !ok) return ok;
  if (auto ok = checkpoints.protect("v", grid.v().data(), bytes, sizeof(double)); !ok) return ok;
  if (auto ok = checkpoints.protect("step", &step, sizeof step, sizeof step); !ok) return ok;
  if (auto ok = checkpoints.resume(step); !ok) return ok;

  example::Progress progress(arguments, step);
  while (step < arguments.steps) {
    grid.advance();
    ++step;
    if (auto ok = checkpoints.step_done(step); !ok) return ok;
    progress.step_done(step, checkpoints.newest_durable());
    if (arguments.delay_ms != 0) std::this_thread::sleep_for(std::chrono::milliseconds(arguments.delay_ms));
  }
  progress.end();
  return checkpoints.finish();
}

}  // namespace

int main(int argc, char** argv) {
  std::string png;
  Boundary boundary = Boundary::periodic;
  example::Program program;
  program.name = "gray_scott";
  program.purpose =
      "Simulates reaction and diffusion (Gray-Scott) with checkpoints. Killed and started again with the\n"
      "same arguments, it goes on from its newest image and ends with the same bits.";
  program.defaults.size = 2048;
  program.defaults.steps = 2000;
  program.defaults.every = 100;
  program.defaults.progress_ms = 500;
  program.extras.push_back({"png", "FILE", "write the field of v there, as a picture", [&](const std::string& value) {
                              png = value;
                              return !value.empty();
                            }});
  program.extras.push_back({"boundary", "KIND", "periodic or fixed (periodic)", [&](const std::string& value) {
                              boundary = value == "fixed" ? Boundary::fixed : Boundary::periodic;
                              return value == "fixed" || value == "periodic";
                            }});
  example::Arguments arguments;
  switch (parse_arguments(argc, argv, program, arguments)) {
    case example::Parsed::done: return 0;
    case example::Parsed::usage: return 2;
    case example::Parsed::run: break;
  }
  if (arguments.size < 16 || arguments.size > 65536) {
    std::fprintf(stderr, "gray_scott: command line refused: --size is not between 16 and 65536; choose such a size\n");
    return 2;
  }

  std::uint64_t step = 0;  // protected like the grid: both outlive the engine
  GrayScott grid(arguments.size, boundary);
  grid.seed();
  auto checkpoints = example::Checkpoints::open(arguments);
  if (!checkpoints) return example::failed(program.name, checkpoints.error());
  if (auto ok = simulate(arguments, grid, step, **checkpoints); !ok) return example::failed(program.name, ok.error());

  std::uint64_t state_write_ns = 0;
  const std::span<const std::byte> parts[] = {std::as_bytes(std::span(grid.u())), std::as_bytes(std::span(grid.v()))};
  if (!arguments.out.empty() && !example::write_state(arguments.out, parts, state_write_ns)) return 1;
  if (!png.empty() && !example::write_png(png, grid.v(), arguments.size, 0.4)) return 1;
  if (auto ok = (*checkpoints)->report(state_write_ns); !ok) return example::failed(program.name, ok.error());
  return 0;
}

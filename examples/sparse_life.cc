// SPDX-License-Identifier: Apache-2.0
//
// Conway's Life on a large board, most of which has come to rest: gliders cross a field of still lifes and burn holes
// into it. The state is large (256 MiB by default), what changes is small, and a delta image holds only that.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <span>
#include <thread>

#include "common/arguments.h"
#include "common/checkpoints.h"
#include "common/state_file.h"
#include "life_board.h"

namespace {

struct Life {
  example::LifeBoard board;
  std::uint64_t step = 0;
};

varve::Status simulate(const example::Arguments& arguments, std::uint64_t gliders, Life& life,
                       example::Checkpoints& checkpoints) {
  auto& [board, step] = life;
  const auto cells = board.cells();
  if (auto ok = checkpoints.protect("board", cells.data(), cells.size(), 1); !ok) return ok;
  if (auto ok = checkpoints.protect("step", &step, sizeof step, sizeof step); !ok) return ok;
  if (auto ok = checkpoints.resume(step); !ok) return ok;
  if (step == 0) board.seed(gliders);
  board.activate_all();  // which tiles are active is not saved: it follows from the cells

  example::Progress progress(arguments, step);
  while (step < arguments.steps) {
    board.advance();
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
  std::uint64_t gliders = 1000;
  example::Program program;
  program.name = "sparse_life";
  program.purpose =
      "Plays Conway's Life on a large board of which little changes, with checkpoints. Killed and started\n"
      "again with the same arguments, it goes on from its newest image and ends with the same bits.";
  program.defaults.size = 16384;
  program.defaults.steps = 2000;
  program.defaults.every = 100;
  program.defaults.progress_ms = 500;
  program.extras.push_back({"gliders", "N", "gliders at the start (1000)",
                            [&](const std::string& value) { return example::parse_number(value, gliders); }});
  example::Arguments arguments;
  switch (parse_arguments(argc, argv, program, arguments)) {
    case example::Parsed::done: return 0;
    case example::Parsed::usage: return 2;
    case example::Parsed::run: break;
  }
  if (arguments.size < 192 || arguments.size > 131072 || arguments.size % example::LifeBoard::kTileSide != 0) {
    std::fprintf(stderr,
                 "sparse_life: command line refused: --size is no multiple of 64 between 192 and 131072; choose one\n");
    return 2;
  }

  Life life{example::LifeBoard(arguments.size)};  // protected, so it outlives the engine
  auto checkpoints = example::Checkpoints::open(arguments);
  if (!checkpoints) return example::failed(program.name, checkpoints.error());
  if (auto ok = simulate(arguments, gliders, life, **checkpoints); !ok)
    return example::failed(program.name, ok.error());

  std::uint64_t state_write_ns = 0;
  const std::span<const std::byte> parts[] = {std::as_bytes(life.board.cells())};
  if (!arguments.out.empty() && !example::write_state(arguments.out, parts, state_write_ns)) return 1;
  if (auto ok = (*checkpoints)->report(state_write_ns); !ok) return example::failed(program.name, ok.error());
  return 0;
}

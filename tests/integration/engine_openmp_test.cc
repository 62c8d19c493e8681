// SPDX-License-Identifier: Apache-2.0
//
// An OpenMP program that checkpoints between its parallel regions: each image shows the state of its step, and a run
// that was restored ends as one that was not.
#include "tests/integration/engine_fixture.h"

namespace varve {
namespace {

using namespace test;

constexpr std::size_t kCells = 200'000;
constexpr int kSteps = 12;

struct Simulation {
  std::vector<double> now = std::vector<double>(kCells, 0.0);
  std::vector<double> next = std::vector<double>(kCells, 0.0);
  int step_number = 0;

  Simulation() { now[kCells / 2] = 1000; }

  /// Each cell by one thread, from its neighbours: the result does not depend on how many threads there are.
  void step() {
#if defined(_OPENMP)
#pragma omp parallel for schedule(dynamic, 1024) num_threads(4)
#endif
    for (std::size_t i = 1; i < kCells - 1; ++i) next[i] = 0.5 * now[i] + 0.25 * (now[i - 1] + now[i + 1]);
#if defined(_OPENMP)
#pragma omp parallel for num_threads(4)
#endif
    for (std::size_t i = 0; i < kCells; ++i) now[i] = next[i];
    ++step_number;
  }
  Status protect(Engine& engine) {
    for (auto* field : {&now, &next}) {
      const auto name = field == &now ? "now" : "next";
      if (const Status done = engine.protect(name, field->data(), kCells * sizeof(double), {.element_bytes = 8}); !done)
        return done;
    }
    return engine.protect("step", &step_number, sizeof step_number);
  }
};

TEST(EngineOpenMp, checkpoints_between_parallel_regions_show_their_step) {
#if !defined(_OPENMP)
  GTEST_SKIP() << "built without OpenMP";
#endif
  const TemporaryDirectory directory;
  std::vector<std::vector<double>> states;
  {
    Simulation simulation;
    auto engine = Engine::open(small_options(directory / "store"));
    ASSERT_OK(engine);
    ASSERT_OK(simulation.protect(*engine));
    for (int i = 0; i < kSteps; ++i) {
      simulation.step();
      states.push_back(simulation.now);
      ASSERT_OK(engine->checkpoint());  // the next parallel region begins while this image is being written
    }
    ASSERT_OK(engine->close());
  }
  for (const int from : {kSteps, 1, kSteps / 2}) {
    Simulation simulation;
    auto engine = Engine::open(small_options(directory / "store"));
    ASSERT_OK(engine);
    ASSERT_OK(simulation.protect(*engine));
    ASSERT_OK(engine->restore(std::to_string(from)));
    ASSERT_EQ(simulation.step_number, from);
    ASSERT_EQ(simulation.now, states[static_cast<std::size_t>(from) - 1]);
    while (simulation.step_number < kSteps) simulation.step();
    EXPECT_EQ(simulation.now, states.back()) << "resumed from step " << from;
  }
}

}  // namespace
}  // namespace varve

// SPDX-License-Identifier: Apache-2.0
//
// Options::keep: which images stay, how much disk a long run takes, and that nothing of it disturbs images or readers.
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/engine_implementation.h"
#include "tests/integration/engine_fixture.h"
#include "tests/support/simulated_io.h"

namespace varve::test {
namespace {

constexpr std::size_t kPages = 64;

/// What memory is at the cut of an image: a function of its number, a few pages of it like in the image before.
void write_state(Pages& memory, std::uint64_t image) {
  for (std::uint64_t i = 0; i < 3; ++i) {
    const std::uint64_t page = (image * 7 + i * 13) % kPages;
    fill({memory.page(page), Pages::page_bytes()}, image * 10 + i);
  }
}

std::set<std::uint64_t> listed(Engine& engine) {
  std::set<std::uint64_t> numbers;
  const auto images = engine.images();
  EXPECT_OK(images);
  for (const auto& info : *images) numbers.insert(info.image);
  return numbers;
}

/// As a disk counts it, the directory itself left out.
std::uint64_t disk_bytes(const std::string& directory) {
  std::uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    struct stat status {};
    if (entry.is_regular_file() && stat(entry.path().c_str(), &status) == 0)
      bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  return bytes;
}

Options keeping(const std::string& store, std::uint32_t keep, std::uint32_t keep_every = 0) {
  Options options = small_options(store);
  options.keep = keep;
  options.keep_every = keep_every;
  return options;
}

void restore_all(const std::string& store, const std::map<std::uint64_t, std::vector<std::byte>>& states) {
  Pages memory(kPages);
  auto engine = Engine::open(small_options(store));
  ASSERT_OK(engine);
  ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
  for (const std::uint64_t number : listed(*engine)) {
    ASSERT_OK(engine->restore(std::to_string(number)));
    ASSERT_TRUE(states.contains(number));
    EXPECT_TRUE(same(memory.span(), states.at(number))) << number;
  }
  ASSERT_OK(engine->close());
}

TEST(EngineRetention, A_long_run_takes_little_more_than_what_its_last_images_need) {
  const TemporaryDirectory directory;
  constexpr std::uint64_t kImages = 1500;
  constexpr std::uint64_t kKeep = 8;
  Pages memory(kPages);
  std::map<std::uint64_t, std::vector<std::byte>> states;
  {
    auto engine = Engine::open(keeping(directory / "store", kKeep));
    ASSERT_OK(engine);
    ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
    fill(memory.span(), 1);
    std::uint64_t most = 0;
    std::size_t most_images = 0;
    for (std::uint64_t image = 1; image <= kImages; ++image) {
      write_state(memory, image);
      ASSERT_OK(checkpoint(*engine));
      if (image + kKeep > kImages) states[image] = copy_of(memory.span());
      if (image % 50 != 0) continue;
      most = std::max(most, engine->maintenance().stored_bytes);
      most_images = std::max(most_images, listed(*engine).size());
    }
    EXPECT_LT(most, std::uint64_t{16} << 20) << "while it ran";
    EXPECT_LE(most_images, 3 * kKeep) << "while it ran";
    ASSERT_OK(engine->close());
    const auto status = engine->maintenance();
    EXPECT_EQ(status.failures, 0U) << status.last_failure;
    EXPECT_EQ(status.images_dropped, kImages - kKeep);
    EXPECT_GE(status.collections, 2U);
  }
  // The same images, alone, in a new store.
  {
    auto engine = Engine::open(small_options(directory / "needed"));
    ASSERT_OK(engine);
    ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
    for (const auto& [number, state] : states) {
      std::memcpy(memory.begin(), state.data(), state.size());
      ASSERT_OK(checkpoint(*engine));
    }
    ASSERT_OK(engine->close());
  }
  const double needed = static_cast<double>(disk_bytes(directory / "needed"));
  EXPECT_LE(static_cast<double>(disk_bytes(directory / "store")), 1.25 * needed) << "needed: " << needed;
  restore_all(directory / "store", states);
}

TEST(EngineRetention, A_program_that_never_pauses_waits_for_the_collection) {
  const TemporaryDirectory directory;
  constexpr std::uint64_t kImages = 300;
  constexpr std::size_t kManyPages = 1024;
  constexpr std::size_t kChanged = 256;
  Pages memory(kManyPages);
  fill(memory.span(), 1);
  Options options = keeping(directory / "store", 4);
  options.staging_bytes = std::size_t{16} << 20;
  auto engine = Engine::open(options);
  ASSERT_OK(engine);
  ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
  std::uint64_t most = 0;
  std::size_t most_images = 0;
  for (std::uint64_t image = 1; image <= kImages; ++image) {
    fill({memory.page(image % 4 * kChanged), kChanged * Pages::page_bytes()}, image + 1);
    ASSERT_OK(engine->checkpoint());  // never awaited: an image waits all the time
    most = std::max(most, engine->maintenance().stored_bytes);
    if (image % 10 == 0) most_images = std::max(most_images, listed(*engine).size());
  }
  ASSERT_OK(engine->close());
  // Four images and those that wait to be dropped: 8 MiB and 8 MiB of the 300 MiB that were written.
  EXPECT_LT(most, std::uint64_t{80} << 20) << "while it ran";
  EXPECT_LE(most_images, 4U + 2 * 8) << "while it ran";
  EXPECT_EQ(engine->maintenance().failures, 0U) << engine->maintenance().last_failure;
  std::printf("at most %.1f MiB and %zu images\n", static_cast<double>(most) / (1 << 20), most_images);
}

TEST(EngineRetention, Keeps_one_of_every_so_many_and_what_is_labelled) {
  const TemporaryDirectory directory;
  Pages memory(kPages);
  std::map<std::uint64_t, std::vector<std::byte>> states;
  for (std::uint64_t run = 0; run < 3; ++run) {
    auto engine = Engine::open(keeping(directory / "store", 3, 10));
    ASSERT_OK(engine);
    ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
    for (std::uint64_t image = run * 20 + 1; image <= run * 20 + 20; ++image) {
      write_state(memory, image);
      CheckpointOptions options;
      if (image == 17) options.label = "good";
      ASSERT_OK(checkpoint(*engine, options));
      states[image] = copy_of(memory.span());
    }
    ASSERT_OK(engine->close());
  }
  auto engine = Engine::open(small_options(directory / "store"));
  ASSERT_OK(engine);
  // The second and third run began with full images of their own, which changes nothing here.
  EXPECT_EQ(listed(*engine), (std::set<std::uint64_t>{1, 11, 17, 21, 31, 41, 51, 58, 59, 60}));
  ASSERT_OK(engine->close());
  restore_all(directory / "store", states);
}

TEST(EngineRetention, The_image_that_the_next_one_builds_on_stays) {
  const TemporaryDirectory directory;
  Pages memory(kPages);
  std::map<std::uint64_t, std::vector<std::byte>> states;
  auto engine = Engine::open(keeping(directory / "store", 2));
  ASSERT_OK(engine);
  ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
  for (std::uint64_t image = 1; image <= 9; ++image) {
    write_state(memory, image);
    ASSERT_OK(checkpoint(*engine));
    states[image] = copy_of(memory.span());
  }
  ASSERT_OK(engine->restore("4"));
  EXPECT_TRUE(same(memory.span(), states[4]));
  ASSERT_OK(engine->close());
  engine = Engine::open(keeping(directory / "store", 2));
  ASSERT_OK(engine);
  EXPECT_EQ(listed(*engine), (std::set<std::uint64_t>{4, 8, 9}));
  ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
  ASSERT_OK(engine->restore("4"));
  for (std::uint64_t image = 10; image <= 40; ++image) {  // a branch, long enough for retention while it runs
    write_state(memory, image);
    const auto result = checkpoint(*engine);
    ASSERT_OK(result);
    EXPECT_EQ(result->kind, ImageKind::delta);
    states[image] = copy_of(memory.span());
  }
  ASSERT_OK(engine->close());
  restore_all(directory / "store", states);
}

TEST(EngineRetention, Its_failures_are_told_and_fail_no_image) {
  Pages memory(kPages);
  std::map<std::uint64_t, std::vector<std::byte>> states;
  SimulatedDisk disk;
  auto opened = EngineImplementation::open(keeping("simulated", 2), disk.open());
  ASSERT_OK(opened);
  auto& engine = **opened;
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes(), {}));
  // Garbage enough that it is collected while the program runs; and no file can be removed.
  disk.add_random_faults(SimulatedOperation::remove, 1, EIO);
  std::uint64_t image = 0;
  for (; image < 400 && engine.maintenance().failures == 0; ++image) {
    for (std::size_t page = 0; page < kPages; ++page)
      fill({memory.page(page), Pages::page_bytes()}, image * 100 + page);
    const auto ticket = engine.checkpoint({});
    ASSERT_OK(ticket);
    ASSERT_OK(ticket->wait());
  }
  const auto status = engine.maintenance();
  EXPECT_GE(status.failures, 1U);
  EXPECT_NE(status.last_failure.find("EIO"), std::string::npos) << status.last_failure;
  disk.clear_faults();
  for (std::uint64_t more = 0; more < 100; ++more) {
    for (std::size_t page = 0; page < kPages; ++page)
      fill({memory.page(page), Pages::page_bytes()}, 1'000'000 + more * 100 + page);
    const auto ticket = engine.checkpoint({});
    ASSERT_OK(ticket);
    ASSERT_OK(ticket->wait());
  }
  ASSERT_OK(engine.close());
  EXPECT_LT(disk.used_bytes(), 3 * (kPages + 10) * Pages::page_bytes()) << "what could not be removed then is gone now";
}

TEST(EngineRetention, Refuses_options_that_mean_nothing) {
  const TemporaryDirectory directory;
  ASSERT_ERROR(ErrorCode::invalid_argument, Engine::open(keeping(directory / "store", 0, 5)));
}

/// Arguments: store. Restores the newest image again and again while it is written; ends with the file `stop`.
int child_reads(const std::vector<std::string>& arguments) {
  Pages memory(kPages);
  std::uint64_t restored = 0;
  while (!std::filesystem::exists(arguments.at(0) + "/../stop")) {
    Options options = small_options(arguments.at(0));
    options.chain = "reader-" + std::to_string(getpid());
    auto engine = Engine::open(options);
    if (!engine || !engine->protect("memory", memory.begin(), memory.bytes())) return 1;
    for (int i = 0; i < 20; ++i) {
      const auto info = engine->restore("main/latest");
      if (!info) {
        std::fprintf(stderr, "%s\n", info.error().message().c_str());
        return 2;
      }
      // All pages of an image are of one number: see below.
      std::vector<std::byte> expected(Pages::page_bytes());
      for (std::size_t page = 0; page < kPages; ++page) {
        fill(expected, info->image * 100 + page);
        if (!same({memory.page(page), Pages::page_bytes()}, expected)) return 3;
      }
      ++restored;
    }
    if (!engine->close()) return 4;
  }
  return restored == 0 ? 5 : 0;
}

TEST(EngineRetention, A_reader_restores_while_images_go_and_files_are_collected) {
  const TemporaryDirectory directory;
  Pages memory(kPages);
  auto engine = Engine::open(keeping(directory / "store", 1));
  ASSERT_OK(engine);
  ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
  const auto one_image = [&](std::uint64_t image) {
    for (std::size_t page = 0; page < kPages; ++page)
      fill({memory.page(page), Pages::page_bytes()}, image * 100 + page);
    const auto result = checkpoint(*engine);
    ASSERT_OK(result);
    ASSERT_EQ(result->image, image);
  };
  one_image(1);
  std::vector<pid_t> readers;
  for (int i = 0; i < 2; ++i) {
    const pid_t pid = fork();
    if (pid == 0) {
      execl("/proc/self/exe", "engine_retention_test", "--child", "read", (directory / "store").c_str(), nullptr);
      _exit(127);
    }
    readers.push_back(pid);
  }
  for (std::uint64_t image = 2; image <= 500; ++image) ASSERT_NO_FATAL_FAILURE(one_image(image));
  const auto status = engine->maintenance();
  std::filesystem::create_directory(directory / "stop");
  for (const pid_t pid : readers) {
    int end = 0;
    ASSERT_EQ(waitpid(pid, &end, 0), pid);
    EXPECT_TRUE(WIFEXITED(end));
    EXPECT_EQ(WEXITSTATUS(end), 0);
  }
  EXPECT_GT(status.bytes_freed, 0U) << "nothing was collected meanwhile: " << status.last_failure;
  ASSERT_OK(engine->close());
}

}  // namespace
}  // namespace varve::test

int main(int argc, char** argv) {
  return varve::test::run_tests_or_child(argc, argv, {{"read", varve::test::child_reads}});
}

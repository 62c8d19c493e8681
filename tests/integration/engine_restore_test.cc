// SPDX-License-Identifier: Apache-2.0
//
// Protect, checkpoint, and restore: in the same process, in another one, at other addresses and alignments.
#include <array>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/integration/engine_fixture.h"
#include "varve/varve.h"

namespace varve::test {
namespace {

Engine opened(const Options& options) {
  auto engine = Engine::open(options);
  if (!engine) ADD_FAILURE() << engine.error().message();
  return std::move(engine).value();
}

TEST(EngineRestore, brings_back_what_was_there_at_the_cut) {
  const TemporaryDirectory directory;
  Pages memory(64);
  fill(memory.span(), 1);
  const auto expected = copy_of(memory.span());
  {
    Engine engine = opened(small_options(directory / "store"));
    ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
    const auto result = checkpoint(engine);
    ASSERT_OK(result);
    EXPECT_EQ(result->image, 1U);
    EXPECT_EQ(result->kind, ImageKind::full);
    EXPECT_EQ(result->parent, 0U);
    EXPECT_EQ(result->new_chunks, 64U);
    fill(memory.span(), 2);  // after the cut: not in the image
    ASSERT_OK(engine.close());
  }
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  const auto restored = engine.restore_if_any();
  ASSERT_OK(restored);
  EXPECT_TRUE(*restored);
  EXPECT_TRUE(same(memory.span(), expected));
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, tells_no_image_yet_from_an_error) {
  const TemporaryDirectory directory;
  Pages memory(4);
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  const auto restored = engine.restore_if_any();
  ASSERT_OK(restored);
  EXPECT_FALSE(*restored);
  ASSERT_ERROR(ErrorCode::not_found, engine.restore("1"));
  ASSERT_ERROR(ErrorCode::not_found, engine.restore("latest"));
}

TEST(EngineRestore, continues_the_chain_with_a_small_delta) {
  const TemporaryDirectory directory;
  Pages memory(256);
  fill(memory.span(), 3);
  {
    Engine engine = opened(small_options(directory / "store"));
    ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
    ASSERT_OK(checkpoint(engine));
    ASSERT_OK(engine.close());
  }
  Pages other(256);  // at another address, at the same offset within a page
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("memory", other.begin(), other.bytes()));
  ASSERT_OK(engine.restore_if_any());
  EXPECT_TRUE(same(memory.span(), other.span()));
  other.page(7)[3] ^= std::byte{1};
  const auto result = checkpoint(engine);
  ASSERT_OK(result);
  EXPECT_EQ(result->image, 2U);
  EXPECT_EQ(result->parent, 1U);
  EXPECT_EQ(result->kind, ImageKind::delta);
  EXPECT_EQ(result->new_chunks, 1U);
  EXPECT_EQ(result->changed_chunks, 1U);
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, restores_at_any_offset_within_a_page) {
  const TemporaryDirectory directory;
  constexpr std::size_t kBytes = 5 * 4096 + 123;
  Pages memory(8);
  fill(memory.span(), 4);
  const std::span<std::byte> region(memory.begin() + 16, kBytes);
  const auto expected = copy_of(region);
  {
    Engine engine = opened(small_options(directory / "store"));
    ASSERT_OK(engine.protect("memory", region.data(), region.size()));
    ASSERT_OK(checkpoint(engine));
    ASSERT_OK(engine.close());
  }
  for (const std::size_t offset : {std::size_t{0}, std::size_t{16}, std::size_t{1}, std::size_t{4095}}) {
    Pages other(8);
    fill(other.span(), 5);
    auto around = copy_of(other.span());
    const std::span<std::byte> there(other.begin() + offset, kBytes);
    Engine engine = opened(small_options(directory / "store"));
    ASSERT_OK(engine.protect("memory", there.data(), there.size()));
    ASSERT_OK(engine.restore("1"));
    EXPECT_TRUE(same(there, expected)) << "offset " << offset;
    std::memcpy(around.data() + offset, expected.data(), kBytes);
    EXPECT_TRUE(same(other.span(), around)) << "bytes outside of the region changed, offset " << offset;

    // Whatever the offset is, the next image holds it all.
    there[100] ^= std::byte{1};
    const auto changed = copy_of(there);
    const auto result = checkpoint(engine);
    ASSERT_OK(result);
    fill(there, 6);
    ASSERT_OK(engine.restore(std::to_string(result->image)));
    EXPECT_TRUE(same(there, changed)) << "offset " << offset;
    ASSERT_OK(engine.close());
  }
}

TEST(EngineRestore, protects_the_content_of_vectors_and_single_variables) {
  const TemporaryDirectory directory;
  std::vector<double> grid(10'000);
  for (std::size_t i = 0; i < grid.size(); ++i) grid[i] = static_cast<double>(i) * 0.5;
  const auto expected = grid;
  struct {
    int step = 17;
    char between = 'x';
    std::uint64_t seed = 42;
  } variables;  // several regions on one page
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("grid", grid.data(), grid.size() * sizeof(double), {.element_bytes = 8}));
  ASSERT_OK(engine.protect("step", &variables.step, sizeof variables.step));
  ASSERT_OK(engine.protect("seed", &variables.seed, sizeof variables.seed));
  ASSERT_OK(checkpoint(engine));
  ++variables.step;
  variables.between = 'y';
  variables.seed = 0;
  grid.assign(grid.size(), -1.0);
  ASSERT_OK(checkpoint(engine));
  ASSERT_OK(engine.restore("1"));
  EXPECT_EQ(grid, expected);
  EXPECT_EQ(variables.step, 17);
  EXPECT_EQ(variables.seed, 42U);
  EXPECT_EQ(variables.between, 'y') << "a byte between two regions was restored";
  ASSERT_OK(engine.restore("2"));
  EXPECT_EQ(grid, std::vector<double>(grid.size(), -1.0));
  EXPECT_EQ(variables.step, 18);
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, restores_every_image_of_a_chain) {
  const TemporaryDirectory directory;
  Pages memory(32);
  std::vector<std::vector<std::byte>> states;
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  for (std::uint64_t i = 0; i < 8; ++i) {
    fill(std::span(memory.page(i * 3), 2 * Pages::page_bytes()), i);
    if (i == 4) std::memset(memory.page(0), 0, 4 * Pages::page_bytes());
    states.push_back(copy_of(memory.span()));
    ASSERT_OK(checkpoint(engine));
  }
  for (const std::size_t image : {8U, 1U, 5U, 3U, 8U}) {
    ASSERT_OK(engine.restore(std::to_string(image)));
    EXPECT_TRUE(same(memory.span(), states[image - 1])) << "image " << image;
  }
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, zero_memory_costs_nothing_and_comes_back) {
  const TemporaryDirectory directory;
  Pages memory(512);
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  const auto result = checkpoint(engine);
  ASSERT_OK(result);
  EXPECT_EQ(result->zero_chunks, 512U);
  EXPECT_EQ(result->new_chunks, 0U);
  EXPECT_LE(result->written_bytes, 16U * 1024);
  fill(memory.span(), 7);
  ASSERT_OK(engine.restore("1"));
  EXPECT_TRUE(same(memory.span(), std::vector<std::byte>(memory.bytes())));
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, unchanged_memory_writes_a_manifest_only) {
  const TemporaryDirectory directory;
  Pages memory(256);
  fill(memory.span(), 8);
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  ASSERT_OK(checkpoint(engine));
  fill(memory.span(), 8);  // written, but not changed
  const auto result = checkpoint(engine);
  ASSERT_OK(result);
  EXPECT_EQ(result->changed_chunks, 0U);
  EXPECT_EQ(result->raw_bytes, 0U);
  EXPECT_LE(result->written_bytes, 16U * 1024);
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, two_copies_of_the_same_content_cost_one) {
  const TemporaryDirectory directory;
  Pages first(64);
  Pages second(64);
  fill(first.span(), 9);
  fill(second.span(), 9);
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("first", first.begin(), first.bytes()));
  ASSERT_OK(engine.protect("second", second.begin(), second.bytes()));
  const auto result = checkpoint(engine);
  ASSERT_OK(result);
  EXPECT_EQ(result->new_chunks, 64U);
  EXPECT_EQ(result->deduplicated_chunks, 64U);
  fill(second.span(), 10);
  ASSERT_OK(engine.restore("1"));
  EXPECT_TRUE(same(first.span(), second.span()));
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, refuses_other_regions_before_a_byte_is_changed) {
  const TemporaryDirectory directory;
  Pages memory(4);
  Pages other(4);
  fill(memory.span(), 11);
  {
    Engine engine = opened(small_options(directory / "store"));
    ASSERT_OK(engine.protect("grid", memory.begin(), memory.bytes()));
    ASSERT_OK(engine.protect("step", other.begin(), 8));
    ASSERT_OK(checkpoint(engine));
    ASSERT_OK(engine.close());
  }
  fill(memory.span(), 12);
  const auto before = copy_of(memory.span());
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("grid", memory.begin(), memory.bytes() - 1));
  ASSERT_OK(engine.protect("extra", other.begin(), 16));
  const auto refused = engine.restore_if_any();
  ASSERT_ERROR(ErrorCode::invalid_argument, refused);
  for (const char* name : {"'grid'", "'step'", "'extra'", "16384", "16383"})
    EXPECT_NE(refused.error().message().find(name), std::string::npos) << name << " in " << refused.error().message();
  EXPECT_TRUE(same(memory.span(), before));
  EXPECT_OK(checkpoint(engine)) << "a refused restore does not hold up checkpoints";
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, refuses_read_only_memory_before_a_byte_is_changed) {
  const TemporaryDirectory directory;
  Pages memory(4);
  fill(memory.span(), 13);
  const auto expected = copy_of(memory.span());
  {
    Engine engine = opened(small_options(directory / "store"));
    ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
    ASSERT_OK(checkpoint(engine));
    ASSERT_OK(engine.close());
  }
  std::memset(memory.begin(), 1, memory.bytes());
  ASSERT_EQ(mprotect(memory.page(2), Pages::page_bytes(), PROT_READ), 0);
  {
    Engine engine = opened(small_options(directory / "store"));
    ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
    ASSERT_ERROR(ErrorCode::invalid_argument, engine.restore("1"));
    EXPECT_EQ(memory.begin()[0], std::byte{1});
    ASSERT_OK(engine.close());
  }
  ASSERT_EQ(mprotect(memory.page(2), Pages::page_bytes(), PROT_READ | PROT_WRITE), 0);
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  ASSERT_OK(engine.restore("1"));
  EXPECT_TRUE(same(memory.span(), expected));
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, leaves_excluded_bytes_alone) {
  const TemporaryDirectory directory;
  constexpr std::size_t kPage = 4096;
  Pages memory(8);
  fill(memory.span(), 14);
  auto expected = copy_of(memory.span());
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  ASSERT_OK(engine.exclude("memory", 100, 50));                    // within a chunk
  ASSERT_OK(engine.exclude("memory", 2 * kPage + 10, 3 * kPage));  // parts and two whole chunks
  const auto result = checkpoint(engine);
  ASSERT_OK(result);
  EXPECT_EQ(result->new_chunks, 6U) << "wholly excluded chunks are in no image";
  fill(memory.span(), 15);
  std::memcpy(expected.data() + 100, memory.begin() + 100, 50);
  std::memcpy(expected.data() + 2 * kPage + 10, memory.begin() + 2 * kPage + 10, 3 * kPage);
  ASSERT_OK(engine.restore("1"));
  EXPECT_TRUE(same(memory.span(), expected));

  // What is excluded may change without being a change.
  memory.begin()[120] ^= std::byte{1};
  memory.page(3)[5] ^= std::byte{1};
  const auto next = checkpoint(engine);
  ASSERT_OK(next);
  EXPECT_EQ(next->changed_chunks, 0U);
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, an_exclusion_that_is_gone_in_the_next_process_is_captured_again) {
  const TemporaryDirectory directory;
  Pages memory(4);
  fill(memory.span(), 16);
  {
    Engine engine = opened(small_options(directory / "store"));
    ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
    ASSERT_OK(engine.exclude("memory", 4096, 4096));
    ASSERT_OK(checkpoint(engine));
    ASSERT_OK(engine.close());
  }
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  ASSERT_OK(engine.restore_if_any());
  const auto expected = copy_of(memory.span());
  ASSERT_OK(checkpoint(engine));
  fill(memory.span(), 17);
  ASSERT_OK(engine.restore("2"));
  EXPECT_TRUE(same(memory.span(), expected));
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, regions_come_and_go_between_images) {
  const TemporaryDirectory directory;
  Pages first(4);
  Pages second(4);
  fill(first.span(), 18);
  fill(second.span(), 19);
  const auto one = copy_of(first.span());
  const auto two = copy_of(second.span());
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("first", first.begin(), first.bytes()));
  ASSERT_OK(checkpoint(engine));
  ASSERT_OK(engine.protect("second", second.begin(), second.bytes()));
  ASSERT_OK(checkpoint(engine));
  ASSERT_OK(engine.unprotect("first"));
  ASSERT_OK(checkpoint(engine));
  ASSERT_OK(engine.protect("first", first.begin(), first.bytes() / 2));  // again, with another size
  ASSERT_OK(checkpoint(engine));

  ASSERT_ERROR(ErrorCode::invalid_argument, engine.restore("1"));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.restore("2"));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.restore("3"));
  fill(first.span(), 20);
  fill(second.span(), 21);
  ASSERT_OK(engine.restore("4"));
  EXPECT_TRUE(same(first.span().first(first.bytes() / 2), std::span(one).first(first.bytes() / 2)));
  EXPECT_TRUE(same(second.span(), two));
  ASSERT_OK(engine.unprotect("first"));
  fill(second.span(), 22);
  ASSERT_OK(engine.restore("3"));
  EXPECT_TRUE(same(second.span(), two));
  ASSERT_OK(engine.protect("first", first.begin(), first.bytes()));
  ASSERT_OK(engine.restore("2"));
  EXPECT_TRUE(same(first.span(), one));
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, names_images_by_number_label_and_latest) {
  const TemporaryDirectory directory;
  Pages memory(4);
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  for (const char* label : {"", "before-merge", ""}) {
    memory.begin()[0] = static_cast<std::byte>(static_cast<int>(memory.begin()[0]) + 1);
    ASSERT_OK(checkpoint(engine, {.label = label}));
  }
  const auto value_after = [&](const char* image) {
    EXPECT_OK(engine.restore(image));
    return static_cast<int>(memory.begin()[0]);
  };
  EXPECT_EQ(value_after("1"), 1);
  EXPECT_EQ(value_after("before-merge"), 2);
  EXPECT_EQ(value_after("latest"), 3);
  EXPECT_EQ(value_after("main/1"), 1);
  EXPECT_EQ(value_after("main/before-merge"), 2);
  EXPECT_EQ(value_after("main/latest"), 3);
  ASSERT_ERROR(ErrorCode::not_found, engine.restore("4"));
  ASSERT_ERROR(ErrorCode::not_found, engine.restore("after-merge"));
  ASSERT_ERROR(ErrorCode::not_found, engine.restore("other/1"));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.restore("main/"));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.restore("a b"));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.checkpoint({.label = "before-merge"}));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.checkpoint({.label = "12"}));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.checkpoint({.label = "latest"}));
  const auto images = engine.images();
  ASSERT_OK(images);
  ASSERT_EQ(images->size(), 3U);
  EXPECT_EQ((*images)[1].label, "before-merge");
  EXPECT_EQ((*images)[1].region_bytes, memory.bytes());
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, full_every_and_full_make_full_images_without_reading_everything) {
  const TemporaryDirectory directory;
  Pages memory(64);
  fill(memory.span(), 23);
  Options options = small_options(directory / "store");
  options.full_every = 3;
  Engine engine = opened(options);
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  std::string kinds;
  for (int i = 0; i < 7; ++i) {
    memory.page(5)[i] ^= std::byte{1};
    const auto result = checkpoint(engine);
    ASSERT_OK(result);
    kinds += result->kind == ImageKind::full ? 'F' : 'd';
    if (i > 0) {
      EXPECT_EQ(result->new_chunks, 1U) << "image " << i + 1;
    }
  }
  EXPECT_EQ(kinds, "FddFddF");
  memory.page(6)[0] ^= std::byte{1};
  const auto delta = checkpoint(engine);
  ASSERT_OK(delta);
  EXPECT_EQ(delta->kind, ImageKind::delta);
  const auto full = checkpoint(engine, {.full = true});
  ASSERT_OK(full);
  EXPECT_EQ(full->kind, ImageKind::full);
  EXPECT_EQ(full->new_chunks, 0U);
  const auto expected = copy_of(memory.span());
  fill(memory.span(), 24);
  ASSERT_OK(engine.restore(std::to_string(full->image)));
  EXPECT_TRUE(same(memory.span(), expected));
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, an_engine_that_restored_nothing_begins_with_a_full_image) {
  const TemporaryDirectory directory;
  Pages memory(4);
  for (std::uint64_t run = 1; run <= 2; ++run) {
    Engine engine = opened(small_options(directory / "store"));
    fill(memory.span(), run);
    ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
    const auto result = checkpoint(engine);
    ASSERT_OK(result);
    EXPECT_EQ(result->image, run);
    EXPECT_EQ(result->kind, ImageKind::full);
    ASSERT_OK(engine.close());
  }
}

TEST(EngineRestore, hooks_run_around_the_cut_and_after_the_restore) {
  const TemporaryDirectory directory;
  Pages memory(4);
  Engine engine = opened(small_options(directory / "store"));
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  std::string calls;
  Hooks hooks;
  hooks.before_cut = [&] {
    calls += "before ";
    memory.begin()[0] = std::byte{42};  // the last chance
  };
  hooks.after_cut = [&] {
    calls += "after ";
    memory.begin()[0] = std::byte{1};
  };
  hooks.after_restore = [&](const ImageInfo& info) { calls += "restored-" + std::to_string(info.image); };
  engine.set_hooks(hooks);
  ASSERT_OK(checkpoint(engine));
  ASSERT_OK(engine.restore("1"));
  EXPECT_EQ(calls, "before after restored-1");
  EXPECT_EQ(memory.begin()[0], std::byte{42});
  ASSERT_OK(engine.close());
}

TEST(EngineRestore, verify_on_dedup_compares_before_it_trusts) {
  const TemporaryDirectory directory;
  Pages memory(16);
  fill(memory.span(), 25);
  Options options = small_options(directory / "store");
  options.verify_on_dedup = true;
  Engine engine = opened(options);
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  ASSERT_OK(checkpoint(engine));
  fill(memory.span(), 25);
  memory.page(3)[9] ^= std::byte{1};
  const auto result = checkpoint(engine);
  ASSERT_OK(result);
  EXPECT_EQ(result->changed_chunks, 1U);
  const auto expected = copy_of(memory.span());
  fill(memory.span(), 26);
  ASSERT_OK(engine.restore("latest"));
  EXPECT_TRUE(same(memory.span(), expected));
  ASSERT_OK(engine.close());
}

// -- in another process

constexpr std::size_t kChildPages = 40;

int child_checkpoints_and_dies(const std::vector<std::string>& arguments) {
  Pages memory(kChildPages);
  auto engine = Engine::open(small_options(arguments.at(0)));
  if (!engine || !engine->protect("memory", memory.begin() + 16, memory.bytes() - 100)) return 1;
  for (std::uint64_t i = 0; i < 5; ++i) {
    fill(std::span(memory.page(i * 4), 5 * Pages::page_bytes()), i);
    if (!checkpoint(*engine)) return 2;
  }
  fill(memory.span(), 99);
  kill(getpid(), SIGKILL);
  return 3;
}

int child_restores_and_goes_on(const std::vector<std::string>& arguments) {
  Pages shift(3);  // so that the address is most likely another one
  Pages memory(kChildPages);
  Pages expected(kChildPages);
  for (std::uint64_t i = 0; i < 5; ++i) fill(std::span(expected.page(i * 4), 5 * Pages::page_bytes()), i);
  auto engine = Engine::open(small_options(arguments.at(0)));
  if (!engine || !engine->protect("memory", memory.begin() + 16, memory.bytes() - 100)) return 1;
  const auto restored = engine->restore_if_any();
  if (!restored || !*restored) return 2;
  const std::size_t bytes = memory.bytes() - 100;
  if (std::memcmp(memory.begin() + 16, expected.begin() + 16, bytes) != 0) return 3;
  const auto next = checkpoint(*engine);
  if (!next || next->kind != ImageKind::delta || next->parent != 5 || next->changed_chunks != 0) return 4;
  return engine->close() ? 0 : 5;
}

TEST(EngineRestore, survives_sigkill_and_goes_on_in_another_process) {
  const TemporaryDirectory directory;
  const auto killed = run_child("checkpoint", {directory / "store"});
  ASSERT_EQ(killed.signal, SIGKILL) << "exit status " << killed.exit_status;
  EXPECT_EQ(run_child("restore", {directory / "store"}).exit_status, 0);
}

}  // namespace
}  // namespace varve::test

int main(int argc, char** argv) {
  return varve::test::run_tests_or_child(
      argc, argv,
      {{"checkpoint", varve::test::child_checkpoints_and_dies}, {"restore", varve::test::child_restores_and_goes_on}});
}

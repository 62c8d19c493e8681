// SPDX-License-Identifier: Apache-2.0
//
// What every way of capturing promises: the consumer gets the suspects' content as of the cut, whole chunks and nothing
// else, whatever the program writes once capture() has returned; in bounded memory, without ever blocking for good.
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "engine/capture_tuning.h"
#include "tests/unit/engine/capture_test_support.h"

namespace varve {
namespace {

using capture_test::fill;
using capture_test::Mapped;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMiB = std::size_t{1} << 20;

enum class Way { copy, fork, fork_refused };

std::string name_of(Way way) {
  switch (way) {
    case Way::copy: return "copy";
    case Way::fork: return "fork";
    case Way::fork_refused: return "fork_refused";
  }
  return "";
}

bool forks(Way way) { return way == Way::fork; }

std::unique_ptr<Capturer> make(Way way, std::uint32_t chunk_bytes, std::size_t staging_bytes) {
  CapturerOptions options;
  options.staging_bytes = staging_bytes;
  options.chunk_bytes = chunk_bytes;
  options.wanted = way == Way::copy ? Capture::copy : Capture::fork;
  CaptureTuning tuning;
  auto made = create_capturer(options, tuning);
  EXPECT_TRUE(made) << made.error().message();
  return made ? std::move(made).value() : nullptr;
}

/// Runs `body` in a thread of its own in which the system refuses what the way says.
void with_refusals(Way way, const std::function<void()>& body) {
  std::thread([&] {
    if (way == Way::fork_refused) {
      ASSERT_TRUE(capture_test::refuse_processes_in_this_thread());
    }
    body();
  }).join();
}

/// What one cut should give: a copy of every span, taken while nobody writes.
struct Expected {
  std::vector<MemorySpan> spans;
  std::map<std::uintptr_t, std::vector<std::byte>> content;  // by address

  void add(const MemorySpan& span) {
    spans.push_back(span);
    content[reinterpret_cast<std::uintptr_t>(span.begin)].assign(span.begin, span.begin + span.bytes);
  }
};

struct Seen {
  std::map<std::uintptr_t, std::vector<std::byte>> content;
  std::map<std::uint32_t, std::uintptr_t> last;  // by region
  std::optional<Error> error;
  bool ascending = true;
  bool at_chunks = true;
  std::uint64_t bytes = 0;
};

/// Reads a stream to its end; slowly, if asked to.
Seen consume(CaptureStream& stream, const std::vector<MemorySpan>& spans, std::uint32_t chunk_bytes,
             std::chrono::microseconds pause = {}) {
  Seen seen;
  std::map<std::uint32_t, std::uintptr_t> grid;
  for (const auto& span : spans) grid[span.region] = span.grid;
  while (true) {
    auto piece = stream.next();
    if (!piece) {
      seen.error = piece.error();
      return seen;
    }
    if (!piece->has_value()) return seen;
    const CapturedPiece& got = **piece;
    seen.ascending = seen.ascending && seen.last[got.region] <= got.begin;
    seen.last[got.region] = got.begin + got.content.size();
    bool starts_span = false;
    for (const auto& span : spans)
      starts_span = starts_span || reinterpret_cast<std::uintptr_t>(span.begin) == got.begin;
    if (!starts_span && (got.begin - grid[got.region]) % chunk_bytes != 0) seen.at_chunks = false;
    seen.content[got.begin].assign(got.content.begin(), got.content.end());
    seen.bytes += got.content.size();
    if (pause.count() > 0) std::this_thread::sleep_for(pause);
  }
}

/// Joins the pieces and compares with what was there at the cut.
void expect_equal(const Seen& seen, const Expected& expected) {
  ASSERT_FALSE(seen.error) << seen.error->message();
  EXPECT_TRUE(seen.ascending);
  EXPECT_TRUE(seen.at_chunks);
  std::uint64_t bytes = 0;
  for (const auto& [begin, content] : expected.content) {
    for (std::size_t done = 0; done < content.size();) {
      const auto piece = seen.content.find(begin + done);
      ASSERT_NE(piece, seen.content.end()) << "no piece begins " << done << " bytes into a span of " << content.size();
      ASSERT_LE(done + piece->second.size(), content.size());
      ASSERT_EQ(std::memcmp(piece->second.data(), content.data() + done, piece->second.size()), 0)
          << "at " << done << " of " << content.size();
      done += piece->second.size();
    }
    bytes += content.size();
  }
  EXPECT_EQ(seen.bytes, bytes);
}

class CaptureContract : public testing::TestWithParam<Way> {};

/// Captures, overwrites everything at once, and only then lets the consumer read.
void capture_and_overwrite(Capturer& capturer, const Expected& expected, std::uint32_t chunk_bytes, Way way) {
  const auto stream = capturer.make_stream();
  std::atomic<bool> overwritten = false;
  Seen seen;
  std::thread consumer([&] {
    while (!overwritten) std::this_thread::yield();
    seen = consume(*stream, expected.spans, chunk_bytes);
  });
  with_refusals(way, [&] {
    auto outcome = capturer.capture(expected.spans, *stream);
    ASSERT_TRUE(outcome) << outcome.error().message();
    for (const auto& span : expected.spans) std::memset(const_cast<std::byte*>(span.begin), 0x5a, span.bytes);
    overwritten = true;
    std::uint64_t other = 0;
    for (const auto& span : expected.spans) other += span.fork_holds_it ? 0 : span.bytes;
    std::uint64_t all = 0;
    for (const auto& span : expected.spans) all += span.bytes;
    EXPECT_EQ(outcome->copied_bytes, forks(way) ? other : all) << outcome->why;
    EXPECT_EQ(outcome->forked_bytes, forks(way) ? all - other : 0) << outcome->why;
    EXPECT_FALSE(outcome->why.empty());
  });
  overwritten = true;
  consumer.join();
  expect_equal(seen, expected);
}

TEST_P(CaptureContract, gives_the_content_as_of_the_cut) {
  std::mt19937_64 random(7);
  for (const std::uint32_t chunk_bytes : {4096U, 8192U, 65536U}) {
    const auto capturer = make(GetParam(), chunk_bytes, 64 * kMiB);
    ASSERT_NE(capturer, nullptr);
    for (int round = 0; round < 12; ++round) {
      SCOPED_TRACE("chunk " + std::to_string(chunk_bytes) + " round " + std::to_string(round));
      // Two regions that begin and end anywhere; random runs of whole chunks, cut to the region.
      std::vector<std::vector<std::byte>> regions;
      Expected expected;
      for (std::uint32_t region = 0; region < 2; ++region) {
        regions.emplace_back(1 + random() % (round % 3 == 0 ? 5000 : 5 * kMiB));
        auto& memory = regions.back();
        fill(memory.data(), memory.size(), random());
        const auto begin = reinterpret_cast<std::uintptr_t>(memory.data());
        const std::uintptr_t grid = begin & ~(kPage - 1);
        const std::uintptr_t end = begin + memory.size();
        for (std::uintptr_t at = grid; at < end;) {
          const std::uintptr_t to = at + chunk_bytes * (1 + random() % (random() % 8 == 0 ? 700 : 4));
          const std::uintptr_t from = std::max(at, begin);
          if (random() % 3 != 0 && std::min(to, end) > from)
            expected.add({region, reinterpret_cast<const std::byte*>(from), std::min(to, end) - from, grid, true});
          at = to + chunk_bytes;
        }
      }
      capture_and_overwrite(*capturer, expected, chunk_bytes, GetParam());
    }
  }
}

TEST_P(CaptureContract, copies_memory_that_a_child_would_share_or_not_get) {
  const auto capturer = make(GetParam(), 4096, 64 * kMiB);
  ASSERT_NE(capturer, nullptr);
  Mapped shared(kMiB, MAP_SHARED);
  Mapped not_inherited(kMiB);
  Mapped wiped(kMiB);
  Mapped plain(kMiB);
  ASSERT_EQ(madvise(not_inherited.get(), kMiB, MADV_DONTFORK), 0);
  ASSERT_EQ(madvise(wiped.get(), kMiB, MADV_WIPEONFORK), 0);
  Expected expected;
  std::uint32_t region = 0;
  for (const Mapped* memory : {&shared, &not_inherited, &wiped, &plain}) {
    fill(memory->get(), kMiB, 3 + region);
    const auto traits = inspect_mapping(memory->get(), kMiB);
    ASSERT_TRUE(traits) << traits.error().message();
    EXPECT_EQ(traits->fork_holds_it, memory == &plain);
    expected.add(
        {region++, memory->get(), kMiB, reinterpret_cast<std::uintptr_t>(memory->get()), traits->fork_holds_it});
  }
  capture_and_overwrite(*capturer, expected, 4096, GetParam());
}

TEST_P(CaptureContract, takes_cuts_that_are_larger_than_staging_with_a_slow_consumer_in_bounded_memory) {
  constexpr std::size_t kBound = 4 * kMiB;
  constexpr std::size_t kBytes = 48 * kMiB;
  const auto capturer = make(GetParam(), 4096, kBound);
  ASSERT_NE(capturer, nullptr);
  Mapped memory(kBytes);
  for (int round = 0; round < 2; ++round) {
    fill(memory.get(), kBytes, static_cast<std::uint64_t>(round) + 11);
    Expected expected;
    // Scattered pages first, then all the rest at once.
    for (std::size_t page = 0; page < 2048; page += 2)
      expected.add({0, memory.get() + page * kPage, kPage, reinterpret_cast<std::uintptr_t>(memory.get()), true});
    expected.add({0, memory.get() + 8 * kMiB, kBytes - 8 * kMiB, reinterpret_cast<std::uintptr_t>(memory.get()), true});
    const auto stream = capturer->make_stream();
    Seen seen;
    std::thread consumer([&] { seen = consume(*stream, expected.spans, 4096, std::chrono::microseconds(20)); });
    with_refusals(GetParam(), [&] {
      auto outcome = capturer->capture(expected.spans, *stream);
      ASSERT_TRUE(outcome) << outcome.error().message();
      std::memset(memory.get(), 0x77, kBytes);
      EXPECT_EQ(outcome->waited_ns > 0, !forks(GetParam()));
    });
    consumer.join();
    expect_equal(seen, expected);
    EXPECT_LE(capturer->staging_bytes(), kBound + 2 * kMiB);  // and the buffer for reading a holder
  }
}

TEST_P(CaptureContract, keeps_several_cuts_apart_that_are_in_flight_at_once) {
  const auto capturer = make(GetParam(), 4096, 64 * kMiB);
  ASSERT_NE(capturer, nullptr);
  Mapped memory(2 * kMiB);
  std::vector<Expected> expected(3);
  std::vector<std::shared_ptr<CaptureStream>> streams;
  with_refusals(GetParam(), [&] {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      fill(memory.get(), memory.bytes(), i + 1);
      expected[i].add({0, memory.get(), memory.bytes(), reinterpret_cast<std::uintptr_t>(memory.get()), true});
      streams.push_back(capturer->make_stream());
      ASSERT_TRUE(capturer->capture(expected[i].spans, *streams[i]));
    }
    std::memset(memory.get(), 0, memory.bytes());
  });
  for (std::size_t i = 0; i < expected.size(); ++i) {
    SCOPED_TRACE(i);
    expect_equal(consume(*streams[i], expected[i].spans, 4096), expected[i]);
  }
}

TEST_P(CaptureContract, is_not_disturbed_by_threads_that_write_as_soon_as_it_returns) {
  const auto capturer = make(GetParam(), 4096, 8 * kMiB);
  ASSERT_NE(capturer, nullptr);
  Mapped memory(8 * kMiB);
  std::atomic<bool> writing = false;
  std::atomic<bool> stop = false;
  std::atomic<int> idle = 0;
  std::vector<std::thread> writers;
  for (std::size_t half = 0; half < 2; ++half)
    writers.emplace_back([&, half] {
      std::uint64_t seed = half;
      while (!stop) {
        if (!writing) {
          ++idle;
          while (!writing && !stop) std::this_thread::yield();
          --idle;
          continue;
        }
        fill(memory.get() + half * 4 * kMiB, 4 * kMiB, seed += 2);
      }
    });
  for (int round = 0; round < 6; ++round) {
    writing = false;
    while (idle != 2) std::this_thread::yield();
    Expected expected;
    expected.add({0, memory.get(), memory.bytes(), reinterpret_cast<std::uintptr_t>(memory.get()), true});
    const auto stream = capturer->make_stream();
    Seen seen;
    std::thread consumer([&] { seen = consume(*stream, expected.spans, 4096); });
    with_refusals(GetParam(), [&] {
      EXPECT_TRUE(capturer->capture(expected.spans, *stream));
      writing = true;
    });
    consumer.join();
    expect_equal(seen, expected);
  }
  stop = true;
  for (auto& writer : writers) writer.join();
}

TEST_P(CaptureContract, goes_on_when_the_consumer_gives_up) {
  const auto capturer = make(GetParam(), 4096, 4 * kMiB);
  ASSERT_NE(capturer, nullptr);
  Mapped memory(16 * kMiB);
  fill(memory.get(), memory.bytes(), 1);
  Expected expected;
  expected.add({0, memory.get(), memory.bytes(), reinterpret_cast<std::uintptr_t>(memory.get()), true});
  for (const int pieces : {0, 1, 5}) {
    const auto stream = capturer->make_stream();
    std::thread consumer([&] {
      for (int i = 0; i < pieces; ++i) EXPECT_TRUE(stream->next());
      stream->discard();
    });
    with_refusals(GetParam(), [&] { EXPECT_TRUE(capturer->capture(expected.spans, *stream)); });
    consumer.join();
    const auto after = stream->next();
    ASSERT_TRUE(after);
    EXPECT_FALSE(after->has_value());
  }
  // All staging is there again.
  const auto stream = capturer->make_stream();
  Seen seen;
  std::thread consumer([&] { seen = consume(*stream, expected.spans, 4096); });
  with_refusals(GetParam(), [&] { EXPECT_TRUE(capturer->capture(expected.spans, *stream)); });
  consumer.join();
  expect_equal(seen, expected);
}

TEST_P(CaptureContract, takes_an_empty_cut_and_spans_of_no_bytes) {
  const auto capturer = make(GetParam(), 4096, 4 * kMiB);
  ASSERT_NE(capturer, nullptr);
  const std::byte byte{1};
  const auto grid = reinterpret_cast<std::uintptr_t>(&byte) & ~(kPage - 1);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}}) {
    Expected expected;
    expected.spans = {{0, &byte, 0, grid, true}};
    if (bytes > 0) expected.add({0, &byte, bytes, grid, true});
    const auto stream = capturer->make_stream();
    with_refusals(GetParam(), [&] { EXPECT_TRUE(capturer->capture(expected.spans, *stream)); });
    expect_equal(consume(*stream, expected.spans, 4096), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, CaptureContract, testing::Values(Way::copy, Way::fork, Way::fork_refused),
                         [](const auto& way) { return name_of(way.param); });

/// The holder of this process.
pid_t find_holder() {
  const std::string self = std::to_string(getpid());
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream stat(entry.path() / "stat");  // "PID (NAME) STATE PARENT ..."; our name has no spaces
    std::string pid, name, state, parent;
    if (stat >> pid >> name >> state >> parent && parent == self) return static_cast<pid_t>(std::stol(pid));
  }
  return -1;
}

TEST(CaptureByFork, fails_the_stream_whose_holder_was_killed_and_no_other) {
  const auto capturer = make(Way::fork, 4096, 4 * kMiB);
  ASSERT_NE(capturer, nullptr);
  Mapped memory(24 * kMiB);
  fill(memory.get(), memory.bytes(), 1);
  Expected expected;
  expected.add({0, memory.get(), memory.bytes(), reinterpret_cast<std::uintptr_t>(memory.get()), true});
  const auto lost = capturer->make_stream();
  ASSERT_TRUE(capturer->capture(expected.spans, *lost));
  siginfo_t ended{};
  const pid_t holder = find_holder();
  ASSERT_GT(holder, 0);
  kill(holder, SIGKILL);
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(holder), &ended, WEXITED | WNOWAIT | __WALL), 0);
  const Seen seen = consume(*lost, expected.spans, 4096);
  ASSERT_TRUE(seen.error);
  EXPECT_EQ(seen.error->code(), ErrorCode::io);
  const auto again = lost->next();
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().message(), seen.error->message());
  const auto stream = capturer->make_stream();
  ASSERT_TRUE(capturer->capture(expected.spans, *stream));
  expect_equal(consume(*stream, expected.spans, 4096), expected);
}

// -- The choice -------------------------------------------------------------------------------------------------------

std::unique_ptr<Capturer> automatic(const CaptureCosts& costs, std::size_t staging_bytes,
                                    std::optional<std::uint64_t> first_bytes = {}) {
  CapturerOptions options;
  options.staging_bytes = staging_bytes;
  CaptureTuning tuning;
  tuning.costs = costs;
  tuning.first_bytes = first_bytes;
  auto made = create_capturer(options, tuning);
  EXPECT_TRUE(made) << made.error().message();
  return made ? std::move(made).value() : nullptr;
}

CaptureOutcome capture_all(Capturer& capturer, const Mapped& memory) {
  Expected expected;
  expected.add({0, memory.get(), memory.bytes(), reinterpret_cast<std::uintptr_t>(memory.get()), true});
  const auto stream = capturer.make_stream();
  Seen seen;
  std::thread consumer([&] { seen = consume(*stream, expected.spans, 4096); });
  auto outcome = capturer.capture(expected.spans, *stream);
  std::memset(memory.get(), 0x33, memory.bytes());
  consumer.join();
  expect_equal(seen, expected);
  EXPECT_TRUE(outcome);
  return outcome ? *outcome : CaptureOutcome{};
}

TEST(CaptureChoice, copies_what_fits_and_forks_what_does_not_where_faults_are_cheap) {
  CaptureCosts costs;
  costs.consumer_bytes_per_ns = 0.01;  // a slow disk
  costs.fork_page_ns = 1;
  const auto capturer = automatic(costs, 4 * kMiB);
  ASSERT_NE(capturer, nullptr);
  Mapped small(kMiB);
  Mapped large(32 * kMiB);
  fill(small.get(), small.bytes(), 1);
  fill(large.get(), large.bytes(), 2);
  const CaptureOutcome fits = capture_all(*capturer, small);
  EXPECT_EQ(fits.copied_bytes, small.bytes()) << fits.why;
  EXPECT_TRUE(fits.why.starts_with("copy: ")) << fits.why;
  const CaptureOutcome does_not = capture_all(*capturer, large);
  EXPECT_EQ(does_not.forked_bytes, large.bytes()) << does_not.why;
  EXPECT_TRUE(does_not.why.starts_with("fork: ")) << does_not.why;
}

TEST(CaptureChoice, waits_for_the_consumer_where_faults_are_dear) {
  CaptureCosts costs;
  costs.fault_ns = 1e6;
  const auto capturer = automatic(costs, 4 * kMiB);
  ASSERT_NE(capturer, nullptr);
  Mapped large(32 * kMiB);
  fill(large.get(), large.bytes(), 2);
  const CaptureOutcome outcome = capture_all(*capturer, large);
  EXPECT_EQ(outcome.copied_bytes, large.bytes()) << outcome.why;
  EXPECT_EQ(outcome.forked_bytes, 0U);
}

TEST(CaptureChoice, forks_until_staging_has_grown_where_copying_is_cheaper) {
  CaptureCosts costs;
  costs.copy_bytes_per_ns = 1000;
  costs.fork_page_ns = costs.fault_ns = 1;
  const auto capturer = automatic(costs, 64 * kMiB, 4 * kMiB);
  ASSERT_NE(capturer, nullptr);
  Mapped memory(32 * kMiB);
  fill(memory.get(), memory.bytes(), 3);
  const CaptureOutcome cold = capture_all(*capturer, memory);
  EXPECT_EQ(cold.forked_bytes, memory.bytes()) << cold.why;
  capturer->expect(memory.bytes());
  while (capturer->warm_up(1'000'000)) continue;
  EXPECT_GE(capturer->staging_bytes(), memory.bytes());
  fill(memory.get(), memory.bytes(), 4);
  const CaptureOutcome warm = capture_all(*capturer, memory);
  EXPECT_EQ(warm.copied_bytes, memory.bytes()) << warm.why;
}

TEST(CaptureChoice, forks_the_rest_once_growing_turns_out_dear) {
  CapturerOptions options;
  options.staging_bytes = 64 * kMiB;
  CaptureTuning tuning;
  tuning.first_bytes = 4 * kMiB;
  tuning.costs = CaptureCosts{.fork_page_ns = 1, .fault_ns = 1'000'000};
  tuning.growing_ns = [](std::uint64_t bytes) { return bytes > 24 * kMiB ? 0 : std::uint64_t{1} << 50; };
  for (const bool refused : {false, true}) {
    auto made = create_capturer(options, tuning);
    ASSERT_TRUE(made) << made.error().message();
    Mapped large(20 * kMiB);
    Mapped other(8 * kMiB);
    Expected expected;
    fill(large.get(), large.bytes(), 3);
    fill(other.get(), other.bytes(), 4);
    const auto address = [](const Mapped& memory) { return reinterpret_cast<std::uintptr_t>(memory.get()); };
    expected.add({0, large.get(), large.bytes(), address(large), true});
    expected.add({1, other.get() + 100, other.bytes() - 100 - kMiB, address(other), true});
    expected.add({2, other.get() + 7 * kMiB, kMiB, address(other) + 7 * kMiB, false});
    const auto capture = [&] {
      const auto stream = (*made)->make_stream();
      const auto outcome = (*made)->capture(expected.spans, *stream);
      std::memset(large.get(), 0x33, large.bytes());
      std::memset(other.get(), 0x33, other.bytes());
      expect_equal(consume(*stream, expected.spans, 4096), expected);  // not before: it would give staging back
      ASSERT_TRUE(outcome);
      EXPECT_EQ(outcome->copied_bytes + outcome->forked_bytes, 28 * kMiB - 100) << outcome->why;
      EXPECT_GE(outcome->copied_bytes, 4 * kMiB) << outcome->why;
      EXPECT_EQ(outcome->forked_bytes > 20 * kMiB, !refused) << outcome->why;
      EXPECT_EQ(outcome->why.find("; then fork: ") != std::string::npos, !refused) << outcome->why;
    };
    if (refused)
      with_refusals(Way::fork_refused, capture);
    else
      capture();
  }
}

TEST(CaptureChoice, keeps_no_staging_for_what_it_will_fork) {
  CaptureCosts costs;
  costs.copy_bytes_per_ns = 0.001;
  costs.fork_page_ns = costs.fault_ns = 1;
  const auto capturer = automatic(costs, 64 * kMiB, 4 * kMiB);
  ASSERT_NE(capturer, nullptr);
  const std::uint64_t before = capturer->staging_bytes();
  capturer->expect(32 * kMiB);
  EXPECT_FALSE(capturer->warm_up(1'000'000'000));
  EXPECT_EQ(capturer->staging_bytes(), before);
}

TEST(CaptureChoice, falls_back_to_copy_when_no_process_can_be_made_and_says_why) {
  CaptureCosts costs;
  costs.consumer_bytes_per_ns = 0.001;
  costs.fault_ns = 1;
  const auto capturer = automatic(costs, 4 * kMiB);
  ASSERT_NE(capturer, nullptr);
  Mapped large(16 * kMiB);
  fill(large.get(), large.bytes(), 2);
  with_refusals(Way::fork_refused, [&] {
    const CaptureOutcome outcome = capture_all(*capturer, large);
    EXPECT_EQ(outcome.copied_bytes, large.bytes());
    EXPECT_NE(outcome.why.find("EPERM"), std::string::npos) << outcome.why;
  });
}

TEST(CaptureChoice, refuses_fork_when_asked_for_it_where_it_does_not_work) {
  CapturerOptions options;
  options.wanted = Capture::fork;
  options.staging_bytes = 4 * kMiB;
  std::thread([&] {
    ASSERT_TRUE(capture_test::refuse_processes_in_this_thread());
    const auto made = Capturer::create(options);
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code(), ErrorCode::unsupported);
    EXPECT_NE(made.error().message().find("EPERM"), std::string::npos) << made.error().message();
  }).join();
}

TEST(CaptureChoice, would_wait_only_behind_a_consumer_that_has_not_read_yet) {
  CapturerOptions options;
  options.wanted = Capture::copy;
  options.staging_bytes = 4 * kMiB;
  const auto made = Capturer::create(options);
  ASSERT_TRUE(made);
  Capturer& capturer = **made;
  EXPECT_FALSE(capturer.would_wait(kMiB));
  EXPECT_FALSE(capturer.would_wait(100 * kMiB));  // nothing is in flight: skipping this cut would skip all
  Mapped memory(3 * kMiB);
  fill(memory.get(), memory.bytes(), 5);
  const MemorySpan span{0, memory.get(), memory.bytes(), reinterpret_cast<std::uintptr_t>(memory.get()), true};
  const auto stream = capturer.make_stream();
  ASSERT_TRUE(capturer.capture(std::span(&span, 1), *stream));
  EXPECT_TRUE(capturer.would_wait(2 * kMiB));
  stream->discard();
  EXPECT_FALSE(capturer.would_wait(2 * kMiB));
}

TEST(CaptureChoice, describes_itself) {
  for (const Capture wanted : {Capture::automatic, Capture::copy, Capture::fork}) {
    CapturerOptions options;
    options.wanted = wanted;
    options.staging_bytes = 4 * kMiB;
    const auto made = Capturer::create(options);
    ASSERT_TRUE(made);
    const std::string words = (*made)->describe();
    EXPECT_TRUE(words.starts_with(wanted == Capture::automatic ? "auto (copy "
                                  : wanted == Capture::copy    ? "copy ("
                                                               : "fork ("))
        << words;
  }
}

}  // namespace
}  // namespace varve

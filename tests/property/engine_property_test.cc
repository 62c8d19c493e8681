// SPDX-License-Identifier: Apache-2.0
//
// Random histories of engines against a plain memory shadow: writes, checkpoints, failing disks, kills, power cuts,
// restores of any image, regions that come, go, grow and move, exclusions; several chains on one store; every tracker
// and capture that works here. Whatever happens, an image that is listed restores to what memory was at its cut, and an
// image that was reported durable is listed.
//
//     engine_property_test [--seed=FIRST] [--seeds=COUNT]
//
// A failing seed prints the command that repeats it.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/engine_implementation.h"
#include "storage/format.h"
#include "tests/integration/engine_fixture.h"
#include "tests/support/differences.h"
#include "tests/support/random.h"
#include "tests/support/seeds.h"
#include "tests/support/simulated_io.h"
#include "tracker/tracker.h"

namespace varve::test {
namespace {

/// What the histories came to, printed at the end: a test that does nothing passes, too.
struct Tally {
  std::uint64_t images = 0;
  std::uint64_t failed = 0;
  std::uint64_t skipped = 0;
  std::uint64_t restores = 0;
  std::uint64_t opens = 0;
  std::uint64_t power_cuts = 0;
  std::uint64_t unchanged_chunks = 0;
  std::uint64_t changed_chunks = 0;
  std::uint64_t differences = 0;
};
Tally tally;

struct RegionShadow {
  std::vector<std::byte> content;
  std::vector<storage::ByteRange> excluded;
};

/// What memory was at the cut of an image.
struct ImageShadow {
  std::map<std::string, RegionShadow> regions;
  std::optional<Ticket> ticket;  // until it is known what became of it
  bool durable = false;          // reported so, or found so after a restart
  std::string label;
};

/// Where a region lies now.
struct Placed {
  std::byte* begin = nullptr;
  std::size_t bytes = 0;
  std::vector<storage::ByteRange> excluded;
};

const std::vector<std::pair<Tracker, const char*>>& trackers() {
  static const auto* const all = [] {
    auto* found = new std::vector<std::pair<Tracker, const char*>>{{Tracker::automatic, "automatic"}};
    for (const auto& report : tracker::Service::process().probe()) {
      if (!report.available) continue;
      switch (report.kind) {
        case tracker::BackEndKind::uffd: found->emplace_back(Tracker::uffd, "uffd"); break;
        case tracker::BackEndKind::soft_dirty: found->emplace_back(Tracker::soft_dirty, "soft-dirty"); break;
        case tracker::BackEndKind::mprotect: found->emplace_back(Tracker::mprotect, "mprotect"); break;
        case tracker::BackEndKind::hash: found->emplace_back(Tracker::hash, "hash"); break;
      }
    }
    return found;
  }();
  return *all;
}

bool fork_works() {
  static const bool works = [] {
    SimulatedDisk disk;
    Options options = small_options("simulated");
    options.capture = Capture::fork;
    return EngineImplementation::open(options, disk.open()).has_value();
  }();
  return works;
}

constexpr std::size_t kSlots = 3;  // regions "a", "b", "c", each with pages of its own
constexpr std::size_t kSlotPages = 10;
constexpr std::size_t kPage = 4096;

/// Whether a call did what it should: it may fail only where the power is off.
#define EXPECT_LIVE(...)                                    \
  do {                                                      \
    const auto& live_ = (__VA_ARGS__);                      \
    if (!live_.has_value() && disk_.power_is_off()) return; \
    ASSERT_OK(live_) << #__VA_ARGS__;                       \
  } while (false)

/// One program with one engine on one chain.
class Program {
 public:
  Program(SimulatedDisk& disk, Random& random, std::string chain)
      : disk_(disk), random_(random), chain_(std::move(chain)), memory_(make_memory(random)) {}

  void run(std::size_t steps) {
    for (std::size_t i = 0; i < steps && !::testing::Test::HasFailure() && !disk_.power_is_off(); ++i) step();
  }
  void step() {
    if (engine_ == nullptr) return open();
    switch (random_.below(24)) {
      case 0: return add_region();
      case 1: return random_.one_in(2) ? remove_region() : exclude();
      case 2: return restore_any();
      case 3: return random_.one_in(2) ? restart(false) : restart(true);
      case 4: return random_.one_in(3) ? fail_for_a_while() : disk_.clear_faults();
      case 6: return random_.one_in(3) ? fail_one() : wait();
      case 5: return random_.one_in(4) ? rest() : wait();
      default: break;
    }
    if (random_.one_in(3)) return checkpoint();
    write();
  }
  /// Restores every image that must be there.
  void check_all() {
    disk_.clear_faults();
    if (engine_ == nullptr) open();
    if (engine_ == nullptr) return;
    settle();
    std::vector<std::uint64_t> numbers;
    for (const auto& [number, image] : images_)
      if (image.durable) numbers.push_back(number);
    for (const auto number : numbers)
      if (!::testing::Test::HasFailure() && random_.one_in(2)) restore(number);
    EXPECT_OK(engine_->close());
    engine_.reset();
  }
  /// The power fails under all programs at once.
  void lose_power() {
    settle();
    engine_.reset();
    settle();
  }
  std::string describe() const { return chain_ + ": " + description_; }

 private:
  static std::unique_ptr<Pages> make_memory(Random& random) {
    constexpr std::size_t kPages = kSlots * kSlotPages;
    if (random.one_in(3)) return std::make_unique<SharedPages>(kPages);
    return std::make_unique<Pages>(kPages);
  }
  std::size_t slot_of(const std::string& name) const { return static_cast<std::size_t>(name[0] - 'a'); }

  void open() {
    disk_.clear_faults();
    Options options;
    options.store = "simulated";
    options.chain = chain_;
    options.staging_bytes = std::size_t{1} << 20;
    options.images_in_flight = static_cast<std::uint32_t>(1 + random_.below(3));
    options.full_every = static_cast<std::uint32_t>(random_.one_in(3) ? random_.below(4) : 0);
    options.when_behind = random_.one_in(4) ? WhenBehind::skip : WhenBehind::wait;
    options.compress = !random_.one_in(3);
    options.verify_on_dedup = random_.one_in(8);
    const auto& [tracker, name] = trackers()[random_.below(trackers().size())];
    options.tracker = tracker;
    options.capture = !fork_works() || !random_.one_in(4) ? Capture::copy : Capture::fork;
    description_ = std::string(name) + (options.capture == Capture::fork ? " fork" : " copy");
    auto engine = EngineImplementation::open(options, disk_.open());
    EXPECT_LIVE(engine);
    engine_ = std::move(engine).value();
    regions_.clear();
    ++tally.opens;
    if (!after_restart() || random_.one_in(4)) return;  // a program that restores nothing
    restore_newest();
  }

  /// Which images are there is known now. False when it can't be known: the power is off.
  bool after_restart() {
    settle();
    const auto listed = engine_->images();
    if (!listed && disk_.power_is_off()) {
      engine_.reset();
      return false;
    }
    EXPECT_OK(listed);
    if (!listed) return false;
    std::map<std::uint64_t, ImageShadow> kept;
    for (const auto& info : *listed) {
      if (info.chain != chain_) continue;
      const auto found = images_.find(info.image);
      EXPECT_NE(found, images_.end()) << "image " << info.image << " was never made";
      if (found == images_.end()) return false;
      EXPECT_EQ(found->second.label, info.label);
      kept[info.image] = std::move(found->second);
      kept[info.image].durable = true;
      images_.erase(found);
    }
    for (const auto& [number, image] : images_)
      EXPECT_FALSE(image.durable) << "image " << number << " was reported durable, and is gone";
    images_ = std::move(kept);
    return true;
  }

  /// Looks at what has become of images in flight that have ended.
  void settle() {
    for (auto image = images_.begin(); image != images_.end();) {
      auto& shadow = image->second;
      if (shadow.ticket.has_value() && shadow.ticket->ready()) {
        const auto result = shadow.ticket->wait();
        shadow.ticket.reset();
        shadow.durable = result.has_value();
        if (result) {
          EXPECT_EQ(result->image, image->first);
          ++tally.images;
          tally.unchanged_chunks += result->unchanged_chunks;
          tally.changed_chunks += result->changed_chunks;
        } else {
          ++tally.failed;
        }
      }
      ++image;
    }
  }

  std::span<std::byte> slot(std::size_t index) { return {memory_->page(index * kSlotPages), kSlotPages * kPage}; }

  bool place(const std::string& name, std::size_t bytes, std::size_t offset) {
    Placed placed{slot(slot_of(name)).data() + offset, bytes, {}};
    const auto done = engine_->protect(name, placed.begin, bytes, {});
    EXPECT_OK(done);
    if (done) regions_[name] = std::move(placed);
    return done.has_value();
  }
  void add_region() {
    const std::string name(1, static_cast<char>('a' + random_.below(kSlots)));
    if (regions_.contains(name)) return remove_named(name);
    const std::size_t bytes = random_.one_in(4) ? 1 + random_.below(200) : 1 + random_.below(8 * kPage);
    place(name, bytes, random_.one_in(2) ? 16 : random_.below(kPage));
  }
  void remove_named(const std::string& name) {
    EXPECT_OK(engine_->unprotect(name));
    regions_.erase(name);
  }
  void remove_region() {
    if (regions_.size() > 1)
      remove_named(std::next(regions_.begin(), static_cast<long>(random_.below(regions_.size())))->first);
  }
  void exclude() {
    if (regions_.empty()) return;
    auto& [name, placed] = *std::next(regions_.begin(), static_cast<long>(random_.below(regions_.size())));
    const std::size_t offset = random_.below(placed.bytes);
    const std::size_t bytes = 1 + random_.below(std::min<std::size_t>(placed.bytes - offset, 3 * kPage));
    EXPECT_OK(engine_->exclude(name, offset, bytes));
    placed.excluded.push_back({offset, bytes});
  }

  /// A byte here and there, as programs do that update what they have: differences.
  void update() {
    const auto there = slot(random_.below(kSlots));
    for (std::size_t at = random_.below(kPage); at < there.size(); at += 1 + random_.below(2 * kPage))
      there[at] = static_cast<std::byte>(random_.below(256));
  }
  void write() {
    if (random_.one_in(4)) return update();
    // Anywhere: also between regions, where it must not matter.
    const auto there = slot(random_.below(kSlots));
    const std::size_t offset = random_.below(there.size());
    const std::size_t bytes =
        std::min(there.size() - offset, random_.one_in(2) ? 1 + random_.below(64) : 1 + random_.below(3 * kPage));
    const auto part = there.subspan(offset, bytes);
    switch (random_.below(5)) {
      case 0: std::memset(part.data(), 0, part.size()); break;
      case 1: std::memset(part.data(), static_cast<int>(random_.below(3)), part.size()); break;  // often what was there
      case 2: {
        const auto from = slot(random_.below(kSlots)).subspan(offset, bytes);
        std::memmove(part.data(), from.data(), bytes);
        break;
      }
      case 3: return random_.one_in(2) ? kernel_writes(part) : unseen_write(part);
      default: fill(part, random_.below(4)); break;
    }
  }
  /// Through the descriptor of shared memory, which no tracker of pages can see: it is declared.
  void unseen_write(std::span<std::byte> part) {
    const auto* const shared = dynamic_cast<const SharedPages*>(memory_.get());
    if (shared == nullptr) return kernel_writes(part);
    const std::size_t bytes = std::min<std::size_t>(part.size(), 1000);
    const std::vector<std::byte> content(bytes, static_cast<std::byte>(random_.below(256)));
    const auto offset = static_cast<off_t>(part.data() - memory_->begin());
    ASSERT_EQ(pwrite(shared->descriptor(), content.data(), bytes, offset), static_cast<ssize_t>(bytes));
    const auto touched = engine_->touch(part.data(), bytes);
    if (!touched) {
      EXPECT_EQ(touched.error().code(), ErrorCode::invalid_argument);  // it lies between regions
    }
  }
  /// By read(2), which the mprotect tracker wants to hear of first.
  void kernel_writes(std::span<std::byte> part) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const std::size_t bytes = std::min<std::size_t>(part.size(), 1000);
    const std::vector<std::byte> content(bytes, static_cast<std::byte>(random_.below(256)));
    ASSERT_EQ(::write(ends[1], content.data(), bytes), static_cast<ssize_t>(bytes));
    // Again while the background has protected it meanwhile.
    ssize_t got = -1;
    do EXPECT_OK(writable(part.data(), bytes));
    while ((got = ::read(ends[0], part.data(), bytes)) < 0 && errno == EFAULT);
    ASSERT_EQ(got, static_cast<ssize_t>(bytes));
    close(ends[0]);
    close(ends[1]);
  }

  void checkpoint() {
    if (regions_.empty()) return;
    ImageShadow shadow;
    for (const auto& [name, placed] : regions_)
      shadow.regions[name] = {copy_of({placed.begin, placed.bytes}), placed.excluded};
    CheckpointOptions options;
    options.full = random_.one_in(6);
    if (random_.one_in(5)) options.label = "label-" + std::to_string(++labels_);
    shadow.label = options.label;
    const auto ticket = engine_->checkpoint(options);
    EXPECT_LIVE(ticket);
    settle();
    if (ticket->image() == 0) {
      ++tally.skipped;
      return;
    }
    shadow.ticket = *ticket;
    EXPECT_FALSE(images_.contains(ticket->image()) && images_[ticket->image()].durable) << "a number was used again";
    images_[ticket->image()] = std::move(shadow);
    if (random_.one_in(3)) wait();
  }
  void wait() {
    const auto waited = engine_->wait();
    settle();
    if (waited.has_value()) return;
    // An error is for images that failed; they are no longer expected.
  }

  void restore_newest() {
    std::uint64_t newest = 0;
    for (const auto& [number, image] : images_) newest = std::max(newest, number);
    if (newest == 0) {
      const auto restored = engine_->restore_if_any();
      EXPECT_LIVE(restored);
      EXPECT_FALSE(*restored);
      return;
    }
    restore(newest, true);
  }
  void restore_any() {
    settle();
    std::vector<std::uint64_t> numbers;
    for (const auto& [number, image] : images_)
      if (image.durable) numbers.push_back(number);
    if (!numbers.empty()) restore(numbers[random_.below(numbers.size())]);
  }

  void protect_regions_of(const ImageShadow& image) {
    std::vector<std::string> names;
    for (const auto& [name, placed] : regions_) {
      const auto wanted = image.regions.find(name);
      if (wanted == image.regions.end() || wanted->second.content.size() != placed.bytes || random_.one_in(4))
        names.push_back(name);
    }
    for (const auto& name : names) remove_named(name);
    for (const auto& [name, wanted] : image.regions)
      if (!regions_.contains(name)) {
        const std::size_t room = kSlotPages * kPage - wanted.content.size();
        place(name, wanted.content.size(), random_.one_in(2) ? 16 : random_.below(std::min(room, kPage)));
      }
  }

  void restore(std::uint64_t number, bool newest = false) {
    disk_.clear_faults();
    const ImageShadow& image = images_.at(number);
    protect_regions_of(image);
    wait();
    std::vector<std::byte> expected = copy_of(memory_->span());
    for (const auto& [name, wanted] : image.regions) {
      const Placed& placed = regions_.at(name);
      std::byte* const to = expected.data() + (placed.begin - memory_->begin());
      const auto before = copy_of({placed.begin, placed.bytes});
      std::memcpy(to, wanted.content.data(), placed.bytes);
      for (const auto* ranges : {&wanted.excluded, &placed.excluded})
        for (const auto& range : *ranges) std::memcpy(to + range.offset, before.data() + range.offset, range.bytes);
    }
    if (newest) {
      const auto restored = engine_->restore_if_any();
      EXPECT_LIVE(restored);
      EXPECT_TRUE(*restored);
    } else {
      const bool by_label = !image.label.empty() && random_.one_in(2);
      const auto restored = engine_->restore(by_label ? image.label : std::to_string(number));
      EXPECT_LIVE(restored);
      EXPECT_EQ(restored->image, number);
    }
    for (const auto& [name, placed] : regions_)
      EXPECT_TRUE(
          same({placed.begin, placed.bytes}, {expected.data() + (placed.begin - memory_->begin()), placed.bytes}))
          << "region " << name << " of image " << chain_ << "/" << number;
    ++tally.restores;
    EXPECT_TRUE(same(memory_->span(), expected)) << "image " << chain_ << "/" << number;
  }

  void restart(bool clean) {
    if (clean) {
      disk_.clear_faults();
      const auto closed = engine_->close();
      settle();
      (void)closed.has_value();  // the error of an image that had failed before
    }
    engine_.reset();
    settle();
    if (random_.one_in(2)) fill(memory_->span(), random_.next());
  }
  void fail_for_a_while() {
    const SimulatedOperation kinds[] = {SimulatedOperation::write, SimulatedOperation::sync,
                                        SimulatedOperation::allocate, SimulatedOperation::open};
    disk_.add_random_faults(kinds[random_.below(4)], 1 + random_.below(4), random_.one_in(2) ? EIO : ENOSPC);
  }
  /// One image fails for certain; the next one holds its pages.
  void fail_one() {
    if (random_.one_in(2)) rest();
    const auto there = slot(random_.below(kSlots));
    unseen_write(there.subspan(random_.below(there.size())));
    disk_.add_random_faults(SimulatedOperation::sync, 1, EIO);
    checkpoint();
    wait();
    disk_.clear_faults();
    if (random_.one_in(2)) write();
    checkpoint();
  }
  void rest() {
    wait();  // several quiet images: pages go cold
    for (int i = 0; i < 4 && !::testing::Test::HasFailure(); ++i) checkpoint();
  }

  SimulatedDisk& disk_;
  Random& random_;
  const std::string chain_;
  const std::unique_ptr<Pages> memory_;  // private or shared
  std::unique_ptr<EngineImplementation> engine_;
  std::map<std::string, Placed> regions_;
  std::map<std::uint64_t, ImageShadow> images_;
  std::uint64_t labels_ = 0;
  std::string description_;
};

void run_seed(std::uint64_t seed) {
  Random random(seed);
  SimulatedDisk disk(SimulatedOptions{.seed = seed, .direct = random.one_in(2)});
  std::vector<std::unique_ptr<Program>> programs;
  const std::size_t count = random.one_in(3) ? 2 : 1;
  for (std::size_t i = 0; i < count; ++i)
    programs.push_back(std::make_unique<Program>(disk, random, i == 0 ? "main" : "other"));
  const auto lose_power = [&] {
    for (auto& program : programs) program->lose_power();
    disk.crash(random.next());
    ++tally.power_cuts;
  };
  for (std::size_t round = 0; round < 3 && !::testing::Test::HasFailure(); ++round) {
    if (random.one_in(3)) disk.cut_power_after(random.below(400));
    for (std::size_t turn = 0; turn < 6; ++turn)
      for (auto& program : programs) program->run(8);
    if (disk.power_is_off() || random.one_in(3)) lose_power();
  }
  if (random.one_in(2)) lose_power();
  for (auto& program : programs) program->check_all();
  disk.clear_faults();
  if (!::testing::Test::HasFailure() && disk.exists(storage::kStoreFile))
    tally.differences += look_for_differences(*disk.open()).chunks;
  if (!::testing::Test::HasFailure()) return;
  for (auto& program : programs) std::printf("%s\n", program->describe().c_str());
}

TEST(EngineProperty, every_listed_image_restores_to_its_cut) {
  const Seeds seeds = wanted_seeds(1000);
  for_each_seed(seeds, run_seed);
  std::printf(
      "%s\n",
      fmt::format("{} seeds from {}: {} opens, {} images, {} failed, {} skipped, {} restores, {} power cuts, "
                  "{} changed and {} unchanged chunks, {} stored as differences",
                  seeds.count, seeds.first, tally.opens, tally.images, tally.failed, tally.skipped, tally.restores,
                  tally.power_cuts, tally.changed_chunks, tally.unchanged_chunks, tally.differences)
          .c_str());
  EXPECT_GE(tally.restores, seeds.count / 2);
  if (seeds.count >= 100) {
    EXPECT_GT(tally.differences, seeds.count);
  }
}

}  // namespace
}  // namespace varve::test

// SPDX-License-Identifier: Apache-2.0
//
// That the simulated disk plays the faults that its header promises: a store that was tested on a kinder one was not
// tested.
#include "tests/support/simulated_io.h"

#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace varve::test {
namespace {

using storage::File;
using storage::Io;
using storage::OpenMode;
using testing::ElementsAre;

std::vector<std::byte> filled(std::size_t size, unsigned value) {
  return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

/// A durable file of this content.
void make_file(SimulatedDisk& disk, std::string_view name, const std::vector<std::byte>& content) {
  disk.put(name, content);
}

TEST(SimulatedDisk, WhatWasSyncedSurvivesEveryCrash) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SimulatedDisk disk({.seed = seed});
    auto io = disk.open();
    ASSERT_TRUE(io->make_directory("segments"));
    auto file = io->open("segments/a", OpenMode::create).value();
    const auto content = filled(10000, 1);
    ASSERT_TRUE(file->submit_write(0, content));
    ASSERT_TRUE(file->sync());
    ASSERT_TRUE(io->sync_directory("segments"));
    ASSERT_TRUE(io->sync_directory(""));
    disk.crash(seed);
    ASSERT_EQ(disk.read("segments/a"), content) << seed;
  }
}

TEST(SimulatedDisk, UnsyncedWritesAreLostKeptOrTorn) {
  std::set<std::string> outcomes;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    SimulatedDisk disk({.seed = seed});
    make_file(disk, "a", filled(8192, 1));
    auto file = disk.open()->open("a", OpenMode::write).value();
    const auto first = filled(4096, 2);
    const auto second = filled(4096, 3);
    ASSERT_TRUE(file->submit_write(0, first));
    ASSERT_TRUE(file->submit_write(4096, second));
    ASSERT_TRUE(file->drain());
    disk.crash(seed);
    const auto after = disk.read("a");
    ASSERT_EQ(after.size(), 8192U);
    std::string outcome;
    for (std::size_t half = 0; half < 2; ++half) {
      std::set<std::byte> values;
      for (std::size_t sector = 0; sector < 8; ++sector) {
        const auto begin = after.begin() + static_cast<std::ptrdiff_t>(half * 4096 + sector * 512);
        ASSERT_TRUE(std::all_of(begin, begin + 512, [&](std::byte b) { return b == *begin; }))
            << "tears within a sector";
        values.insert(*begin);
      }
      outcome += values.size() > 1 ? 't' : (*values.begin() == std::byte{1} ? 'l' : 'k');
    }
    outcomes.insert(outcome);
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"ll", "lk", "lt", "kl", "kk", "kt", "tl", "tk", "tt"}));
}

TEST(SimulatedDisk, SizesAndDataAreKeptApart) {
  std::set<std::string> outcomes;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    SimulatedDisk disk({.seed = seed});
    make_file(disk, "a", filled(1024, 1));
    auto file = disk.open()->open("a", OpenMode::write).value();
    const auto more = filled(1024, 2);
    ASSERT_TRUE(file->submit_write(1024, more));
    ASSERT_TRUE(file->drain());
    ASSERT_TRUE(file->truncate(512));
    disk.crash(seed);
    const auto after = disk.read("a");
    outcomes.insert(std::to_string(after.size()) +
                    (after.size() == 2048 ? (after[1024] == std::byte{2} ? "+" : "0") : ""));
  }
  // Cut; neither size kept; grown with and without its data. Never cut without having grown before: that is its order.
  EXPECT_EQ(outcomes, (std::set<std::string>{"512", "1024", "2048+", "20480"}));
}

TEST(SimulatedDisk, SizesOfOneFileKeepTheirOrder) {
  std::set<std::string> outcomes;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    SimulatedDisk disk({.seed = seed});
    make_file(disk, "a", filled(2048, 1));
    auto file = disk.open()->open("a", OpenMode::write).value();
    ASSERT_TRUE(file->truncate(512));
    ASSERT_TRUE(file->truncate(1024));
    disk.crash(seed);
    const auto after = disk.read("a");
    outcomes.insert(std::to_string(after.size()) + (after.back() == std::byte{0} ? "0" : "+"));
  }
  // Not 1024 with the old data: it was cut before it grew.
  EXPECT_EQ(outcomes, (std::set<std::string>{"2048+", "512+", "10240"}));
}

TEST(SimulatedDisk, ChangesOfOneNameKeepTheirOrder) {
  std::set<std::string> outcomes;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    SimulatedDisk disk({.seed = seed});
    make_file(disk, "a", filled(100, 1));
    auto io = disk.open();
    ASSERT_TRUE(io->rename("a", "b"));
    ASSERT_TRUE(io->open("a", OpenMode::create));
    disk.crash(seed);
    const std::string old = disk.exists("b") ? "b" : "a";
    ASSERT_EQ(disk.read(old), filled(100, 1)) << "a new file of that name took the old one away";
    outcomes.insert(old + (disk.files().size() == 2 ? "+new" : ""));
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"a", "b", "b+new"}));
}

TEST(SimulatedDisk, NamesAreLostOrKeptEachByItself) {
  std::set<std::string> outcomes;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    SimulatedDisk disk({.seed = seed});
    auto io = disk.open();
    ASSERT_TRUE(io->open("a", OpenMode::create));
    ASSERT_TRUE(io->open("b", OpenMode::create));
    disk.crash(seed);
    std::string outcome;
    for (const std::string& name : disk.files()) outcome += name;
    outcomes.insert(outcome);
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"", "a", "b", "ab"}));
}

TEST(SimulatedDisk, RenameIsAtomicAndMayShowAFileWithoutItsContent) {
  std::set<std::string> outcomes;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    SimulatedDisk disk({.seed = seed});
    make_file(disk, "inventory", filled(512, 1));
    auto io = disk.open();
    auto file = io->open("new", OpenMode::create).value();
    const auto content = filled(512, 2);
    ASSERT_TRUE(file->submit_write(0, content));
    ASSERT_TRUE(file->drain());  // no sync: a store that does so is wrong
    ASSERT_TRUE(io->rename("new", "inventory"));
    disk.crash(seed);
    ASSERT_TRUE(disk.exists("inventory")) << "one of the two is always there";
    const auto after = disk.read("inventory");
    const std::string kind = after.empty()              ? "empty"
                             : after == content         ? "new"
                             : after[0] == std::byte{1} ? "old"
                                                        : "zeros";
    outcomes.insert(kind + (disk.exists("new") ? "+tmp" : ""));
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"old", "old+tmp", "new", "empty", "zeros"}));
}

TEST(SimulatedDisk, FilesInAFolderThatIsLostAreLost) {
  bool lost = false;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    SimulatedDisk disk({.seed = seed});
    auto io = disk.open();
    ASSERT_TRUE(io->make_directory("segments"));
    ASSERT_TRUE(io->open("segments/a", OpenMode::create));
    ASSERT_TRUE(io->sync_directory("segments"));  // but not of the folder's own name
    disk.crash(seed);
    lost = lost || !disk.exists("segments/a");
  }
  EXPECT_TRUE(lost);
}

TEST(SimulatedDisk, RemovedFilesMayComeBack) {
  std::set<bool> outcomes;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    SimulatedDisk disk({.seed = seed});
    make_file(disk, "a", filled(100, 1));
    ASSERT_TRUE(disk.open()->remove("a"));
    EXPECT_FALSE(disk.exists("a"));
    disk.crash(seed);
    outcomes.insert(disk.exists("a"));
    if (disk.exists("a")) {
      EXPECT_EQ(disk.read("a"), filled(100, 1));
    }
  }
  EXPECT_EQ(outcomes.size(), 2U);
}

TEST(SimulatedDisk, AFailedSyncIsNotMendedByALaterOne) {
  unsigned lost = 0;
  unsigned seen_and_lost = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SimulatedDisk disk({.seed = seed});
    make_file(disk, "a", filled(512, 1));
    auto file = disk.open()->open("a", OpenMode::write).value();
    const auto content = filled(512, 2);
    ASSERT_TRUE(file->submit_write(0, content));
    disk.add_fault({.operation = SimulatedOperation::sync});
    const Status failed = file->sync();
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().os_errno(), EIO);
    ASSERT_TRUE(file->sync()) << "the kernel reports an error once";
    const bool seen = disk.read("a") == content;
    disk.crash(seed);
    const bool kept = disk.read("a") == content;
    lost += !kept;
    seen_and_lost += seen && !kept;
  }
  EXPECT_GT(lost, 50U);
  EXPECT_LT(lost, 290U);
  EXPECT_GT(seen_and_lost, 20U) << "the page cache may go on showing what never reached the disk";
}

TEST(SimulatedDisk, WritesEndInAnyOrder) {
  bool out_of_order = false;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    SimulatedDisk disk({.seed = seed});
    auto io = disk.open();
    auto file = io->open("a", OpenMode::create).value();
    const auto content = filled(100, 1);
    for (std::uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(file->submit_write(i * 100, content));
    const auto now = disk.read("a");
    bool gap = false;
    for (std::size_t i = 0; i + 100 <= now.size(); i += 100) {
      if (now[i] == std::byte{0}) gap = true;
      if (gap && now[i] != std::byte{0}) out_of_order = true;
    }
    ASSERT_TRUE(file->drain());
    EXPECT_EQ(disk.read("a"), filled(800, 1));
  }
  EXPECT_TRUE(out_of_order);
}

TEST(SimulatedDiskDeathTest, BuffersThatChangeTooEarlyAreABug) {
  EXPECT_DEATH(
      {
        SimulatedDisk disk;
        auto file = disk.open()->open("a", OpenMode::create).value();
        auto content = filled(4096, 1);
        for (std::uint64_t i = 0; i < 16; ++i) (void)file->submit_write(i * 4096, content);
        content[17] = std::byte{9};
        (void)file->drain();
      },
      "changed before it had ended");
}

TEST(SimulatedDisk, FaultsHitTheNthOperation) {
  SimulatedDisk disk;
  auto io = disk.open();
  auto file = io->open("a", OpenMode::create).value();
  auto other = io->open("b", OpenMode::create).value();
  disk.add_fault({.operation = SimulatedOperation::write, .nth = 2, .os_errno = ENOSPC, .count = 2, .file = "a"});
  const auto content = filled(100, 1);
  std::vector<bool> good;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(other->submit_write(0, content));
    ASSERT_TRUE(other->drain());
    const bool accepted = file->submit_write(0, content).has_value();
    const Status status = file->drain();
    if (!status) {
      EXPECT_EQ(status.error().os_errno(), ENOSPC);
    }
    good.push_back(accepted && status);
  }
  EXPECT_THAT(good, ElementsAre(true, false, false, true, true));
  for (const auto operation : {SimulatedOperation::open, SimulatedOperation::list, SimulatedOperation::rename}) {
    disk.add_fault({.operation = operation, .os_errno = EDQUOT});
  }
  EXPECT_EQ(io->open("a", OpenMode::read).error().os_errno(), EDQUOT);
  EXPECT_EQ(io->list("").error().os_errno(), EDQUOT);
  EXPECT_EQ(io->rename("a", "c").error().os_errno(), EDQUOT);
  EXPECT_TRUE(io->rename("a", "c"));
  EXPECT_EQ(disk.operations(SimulatedOperation::rename), 2U);
}

TEST(SimulatedDisk, FullDiskRefusesGrowthAndKeepsWhatIsThere) {
  SimulatedDisk disk({.capacity_bytes = 64 << 10});
  auto io = disk.open();
  auto file = io->open("a", OpenMode::create).value();
  const auto content = filled(60000, 1);
  ASSERT_TRUE(file->submit_write(0, content));
  ASSERT_TRUE(file->sync());
  EXPECT_EQ(file->allocate(0, 100000).error().os_errno(), ENOSPC);
  ASSERT_TRUE(file->submit_write(60000, content));
  EXPECT_EQ(file->drain().error().os_errno(), ENOSPC);
  EXPECT_EQ(io->file_system().value().free_bytes, 4096U);
  ASSERT_TRUE(file->submit_write(0, content)) << "overwriting needs no space";
  ASSERT_TRUE(file->drain());
  disk.set_capacity(1 << 20);
  ASSERT_TRUE(file->submit_write(60000, content));
  ASSERT_TRUE(file->drain());
}

TEST(SimulatedDisk, NothingHappensAfterThePowerCut) {
  std::set<std::size_t> sizes;
  for (std::uint64_t cut = 0; cut < 12; ++cut) {
    SimulatedDisk disk;
    disk.cut_power_after(cut);
    auto io = disk.open();
    auto file = io->open("a", OpenMode::create);
    const auto content = filled(4096, 1);
    if (file) {
      for (std::uint64_t i = 0; i < 5; ++i) {
        (void)(*file)->submit_write(i * 4096, content);
        (void)(*file)->sync();
      }
      (void)io->sync_directory("");
    }
    EXPECT_EQ(disk.power_is_off(), cut < 12) << cut;
    EXPECT_LE(disk.operations(), cut);
    if (disk.power_is_off()) {
      EXPECT_FALSE(disk.open()->list(""));
    }
    disk.crash(cut);
    EXPECT_FALSE(disk.power_is_off());
    ASSERT_TRUE(disk.open()->list(""));
    if (file) {
      EXPECT_EQ((*file)->size_bytes().error().os_errno(), EIO) << "handles of before are dead";
      EXPECT_FALSE((*file)->submit_write(0, content));
    }
    sizes.insert(disk.exists("a") ? static_cast<std::size_t>(disk.size_bytes("a")) : 0);
  }
  EXPECT_GT(sizes.size(), 1U);
}

TEST(SimulatedDisk, LocksEndWithTheCrash) {
  SimulatedDisk disk;
  auto io = disk.open();
  auto lock = io->lock(1, true);
  ASSERT_TRUE(lock);
  EXPECT_FALSE(disk.open()->lock(1, true));
  disk.crash(1);
  auto again = disk.open()->lock(1, true);
  ASSERT_TRUE(again);
  lock.value().reset();  // must not take away the new one
  EXPECT_FALSE(disk.open()->lock(1, true));
  EXPECT_FALSE(io->lock(2, true));
}

TEST(SimulatedDisk, CopiesShowManyCrashesOfOneMoment) {
  SimulatedDisk disk;
  make_file(disk, "a", filled(4096, 1));
  auto file = disk.open()->open("a", OpenMode::write).value();
  const auto content = filled(4096, 2);
  ASSERT_TRUE(file->submit_write(0, content));
  std::map<std::vector<std::byte>, int> outcomes;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    SimulatedDisk copy = disk.copy(seed);
    copy.crash(seed);
    ++outcomes[copy.read("a")];
  }
  EXPECT_GT(outcomes.size(), 10U);
  EXPECT_TRUE(outcomes.contains(filled(4096, 1)));
  EXPECT_TRUE(outcomes.contains(content));
  ASSERT_TRUE(file->sync());
  disk.crash(1);
  EXPECT_EQ(disk.read("a"), content) << "the copies' crashes were not its own";
}

TEST(SimulatedDisk, SameSeedsSameDisk) {
  const auto run = [](std::uint64_t seed) {
    SimulatedDisk disk({.seed = seed});
    auto io = disk.open();
    auto file = io->open("a", OpenMode::create).value();
    std::vector<std::vector<std::byte>> contents;
    for (unsigned i = 0; i < 20; ++i) contents.push_back(filled(700, i + 1));
    for (unsigned i = 0; i < 20; ++i) (void)file->submit_write(i * 700, contents[i]);
    (void)file->drain();
    (void)io->sync_directory("");
    file.reset();
    disk.crash(seed + 1);
    return disk.read("a");
  };
  std::set<std::vector<std::byte>> different;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    EXPECT_EQ(run(seed), run(seed));
    different.insert(run(seed));
  }
  EXPECT_GT(different.size(), 10U);
}

TEST(SimulatedDisk, DamageIsDurable) {
  SimulatedDisk disk;
  make_file(disk, "segments/a", filled(5000, 1));
  disk.flip_bit("segments/a", 4096, 3);
  disk.write("segments/a", 10, filled(5, 7));
  disk.crash(3);
  const auto content = disk.read("segments/a");
  EXPECT_EQ(content[4096], std::byte{1 ^ 8});
  EXPECT_EQ(content[10], std::byte{7});
  disk.truncate("segments/a", 100);
  EXPECT_EQ(disk.size_bytes("segments/a"), 100U);
  EXPECT_THAT(disk.files(), ElementsAre("segments/a"));
  disk.remove("segments/a");
  disk.crash(4);
  EXPECT_THAT(disk.files(), ElementsAre());
}

}  // namespace
}  // namespace varve::test

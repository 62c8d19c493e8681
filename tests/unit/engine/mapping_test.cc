// SPDX-License-Identifier: Apache-2.0
#include "engine/mapping.h"

#include <sys/auxv.h>

#include <cstring>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/mapping_access.h"
#include "tests/unit/engine/capture_test_support.h"

namespace varve {
namespace {

using capture_test::Mapped;

constexpr std::size_t kPage = 4096;

MappingTraits traits_of(const void* begin, std::size_t bytes) {
  const auto traits = inspect_mapping(begin, bytes);
  EXPECT_TRUE(traits) << traits.error().message();
  return traits ? *traits : MappingTraits{};
}

TEST(Mapping, of_plain_memory_is_fit_for_everything) {
  std::vector<std::byte> heap(100'000);
  const int local = 0;
  static int global = 1;
  for (const auto& traits :
       {traits_of(heap.data(), heap.size()), traits_of(&local, sizeof local), traits_of(&global, sizeof global)}) {
    EXPECT_TRUE(traits.mapped);
    EXPECT_TRUE(traits.readable);
    EXPECT_TRUE(traits.fork_holds_it);
    EXPECT_EQ(traits.protection & (PROT_READ | PROT_WRITE), static_cast<std::uint32_t>(PROT_READ | PROT_WRITE));
    EXPECT_EQ(traits.refused, "");
  }
}

TEST(Mapping, with_a_hole_or_unreadable_part_says_so) {
  const Mapped memory(8 * kPage);
  ASSERT_EQ(munmap(memory.get() + 3 * kPage, kPage), 0);
  EXPECT_FALSE(traits_of(memory.get(), 8 * kPage).mapped);
  EXPECT_TRUE(traits_of(memory.get(), 3 * kPage).mapped);
  EXPECT_FALSE(traits_of(memory.get(), 3 * kPage + 1).mapped);
  EXPECT_FALSE(traits_of(memory.get() + 3 * kPage, kPage).mapped);
  EXPECT_FALSE(traits_of(memory.get() + 4 * kPage - 1, 2).mapped);
  EXPECT_TRUE(traits_of(memory.get() + 4 * kPage, 4 * kPage).mapped);
  ASSERT_EQ(mprotect(memory.get() + 6 * kPage, kPage, PROT_NONE), 0);
  EXPECT_FALSE(traits_of(memory.get() + 4 * kPage, 4 * kPage).readable);
  EXPECT_TRUE(traits_of(memory.get() + 4 * kPage, 2 * kPage).readable);
  ASSERT_EQ(mprotect(memory.get() + 6 * kPage, kPage, PROT_READ), 0);
  const auto mixed = traits_of(memory.get() + 4 * kPage, 4 * kPage);
  EXPECT_TRUE(mixed.readable);
  EXPECT_EQ(mixed.protection, static_cast<std::uint32_t>(PROT_READ));  // what all parts allow
}

TEST(Mapping, that_a_child_shares_or_does_not_get_is_not_held_by_fork) {
  const Mapped shared(4 * kPage, MAP_SHARED);
  EXPECT_FALSE(traits_of(shared.get(), 4 * kPage).fork_holds_it);
  const Mapped memory(12 * kPage);
  ASSERT_EQ(madvise(memory.get() + 4 * kPage, kPage, MADV_DONTFORK), 0);
  ASSERT_EQ(madvise(memory.get() + 8 * kPage, kPage, MADV_WIPEONFORK), 0);
  EXPECT_TRUE(traits_of(memory.get(), 4 * kPage).fork_holds_it);
  EXPECT_FALSE(traits_of(memory.get() + 3 * kPage, 2 * kPage).fork_holds_it);
  EXPECT_TRUE(traits_of(memory.get() + 5 * kPage, 3 * kPage).fork_holds_it);
  EXPECT_FALSE(traits_of(memory.get() + 5 * kPage, 4 * kPage).fork_holds_it);
}

TEST(Mapping, that_no_image_can_keep_is_refused_with_the_reason) {
  constexpr int kMapDroppable = 0x08;  // since Linux 6.11: include/uapi/linux/mman.h
  void* const droppable = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, kMapDroppable | MAP_ANONYMOUS, -1, 0);
  if (droppable != MAP_FAILED) {
    EXPECT_NE(traits_of(droppable, kPage).refused.find("droppable"), std::string::npos);
    munmap(droppable, kPage);
  }
  void* const huge =
      mmap(nullptr, 2 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
  if (huge != MAP_FAILED) {
    EXPECT_NE(traits_of(huge, kPage).refused.find("hugetlbfs"), std::string::npos);
    munmap(huge, 2 << 20);
  }
  const unsigned long vdso = getauxval(AT_SYSINFO_EHDR);
  if (vdso != 0) {
    // The data of the vdso lies before it, in special mappings.
    EXPECT_NE(traits_of(reinterpret_cast<void*>(vdso - kPage), kPage).refused, "");
  }
}

constexpr int kMadvGuardInstall = 102;  // since Linux 6.13: include/uapi/asm-generic/mman-common.h

TEST(Mapping, with_a_guard_region_can_not_be_read_and_says_where) {
  const Mapped memory(64 * kPage);
  capture_test::fill(memory.get(), memory.bytes(), 1);
  if (madvise(memory.get() + 20 * kPage, 2 * kPage, kMadvGuardInstall) != 0)
    GTEST_SKIP() << "MADV_GUARD_INSTALL: " << std::strerror(errno);
  const auto traits = traits_of(memory.get(), 64 * kPage);
  EXPECT_TRUE(traits.mapped);
  EXPECT_FALSE(traits.readable);
  const auto first = reinterpret_cast<std::uintptr_t>(memory.get() + 20 * kPage);
  EXPECT_NE(traits.unreadable.find(fmt::format("{:#x}", first)), std::string::npos) << traits.unreadable;
  EXPECT_NE(traits.unreadable.find("MADV_GUARD_INSTALL"), std::string::npos) << traits.unreadable;
  EXPECT_FALSE(traits_of(memory.get() + 21 * kPage, kPage).readable);
  EXPECT_TRUE(traits_of(memory.get(), 20 * kPage).readable);
  EXPECT_TRUE(traits_of(memory.get() + 22 * kPage, 42 * kPage).readable);
}

TEST(Mapping, guard_regions_are_found_without_the_kernels_category_too) {
  const Mapped memory(64 * kPage);  // half of it never touched
  capture_test::fill(memory.get(), 32 * kPage, 1);
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.get());
  const AddressRange range{begin, begin + memory.bytes()};
  const auto none = find_guard_region(range, GuardSearch::entries);
  if (!none) GTEST_SKIP() << "PAGEMAP_SCAN: " << none.error().message();
  EXPECT_FALSE(none->has_value());
  for (const std::size_t page : {60U, 7U}) {
    if (madvise(memory.get() + page * kPage, kPage, kMadvGuardInstall) != 0)
      GTEST_SKIP() << "MADV_GUARD_INSTALL: " << std::strerror(errno);
    const auto found = find_guard_region(range, GuardSearch::entries);
    ASSERT_TRUE(found && found->has_value());
    EXPECT_EQ(found.value()->begin, begin + page * kPage);
    EXPECT_EQ(found.value()->end, begin + (page + 1) * kPage);
  }
}

TEST(Mapping, of_a_file_that_ends_before_it_can_not_be_read) {
  const UniqueFd file(memfd_create("varve-test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), 2 * kPage + 1), 0);
  for (const int flags : {MAP_PRIVATE, MAP_SHARED}) {
    void* const mapped = mmap(nullptr, 8 * kPage, PROT_READ | PROT_WRITE, flags, file.get(), 0);
    ASSERT_NE(mapped, MAP_FAILED);
    auto* const memory = static_cast<std::byte*>(mapped);
    EXPECT_TRUE(traits_of(memory, 3 * kPage).readable) << "all of the page in which the file ends";
    const auto traits = traits_of(memory + kPage, 3 * kPage);
    EXPECT_FALSE(traits.readable);
    EXPECT_NE(traits.unreadable.find("the file mapped there ends before"), std::string::npos) << traits.unreadable;
    EXPECT_FALSE(traits_of(memory, 8 * kPage).readable);
    munmap(mapped, 8 * kPage);
  }
}

TEST(Mapping, of_no_range_is_an_error) {
  const auto nothing = inspect_mapping(&kPage, 0);
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code(), ErrorCode::invalid_argument);
  EXPECT_FALSE(inspect_mapping(reinterpret_cast<void*>(~std::uintptr_t{0} - 10), 4096));
}

TEST(MappingReader, skips_what_it_does_not_know_and_stops_behind_the_range) {
  MappingReader reader(0x2000, 0x5000);
  for (const char* line : {"00001000-00003000 rw-p 00000000 00:00 0 ", "Size:      8 kB", "NewField: 7 of 9",
                           "VmFlags: rd wr mr zz 99 ", "00003000-00004000 r--p 00000000 00:00 0  [vvar_of_2031]",
                           "VmFlags:", "", "-", "00004000-00006000 rwxp 00000000 00:00 0", "VmFlags: rd wr"})
    EXPECT_TRUE(reader.line(line)) << line;
  EXPECT_FALSE(reader.line("00006000-00007000 ---s 00000000 00:00 0"));
  const auto traits = reader.finish();
  EXPECT_TRUE(traits.mapped);
  EXPECT_TRUE(traits.readable);
  EXPECT_TRUE(traits.fork_holds_it);
  EXPECT_EQ(traits.protection, static_cast<std::uint32_t>(PROT_READ));
  EXPECT_EQ(traits.refused, "");
}

TEST(MappingReader, takes_flags_of_mappings_within_the_range_only) {
  MappingReader reader(0x2000, 0x3000);
  for (const char* line : {"00001000-00002000 rw-s 00000000 00:00 0 ", "VmFlags: rd dc io",
                           "00002000-00003000 rw-p 0 0:0 0", "VmFlags: rd wr ht"})
    EXPECT_TRUE(reader.line(line));
  EXPECT_FALSE(reader.line("00003000-00004000 rw-s 00000000 00:00 0 "));
  const auto traits = reader.finish();
  EXPECT_TRUE(traits.fork_holds_it);
  EXPECT_NE(traits.refused.find("hugetlbfs"), std::string::npos);
}

TEST(ReadLines, gives_lines_of_any_length_and_stops_when_told) {
  char name[] = "/tmp/varve-mapping-XXXXXX";
  const UniqueFd file(mkstemp(name));
  ASSERT_TRUE(file.valid());
  const std::string text = std::string(10'000, 'a') + "\n\nb\n" + std::string(5'000, 'c');
  ASSERT_EQ(write(file.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  std::vector<std::size_t> lengths;
  ASSERT_TRUE(read_lines(name, [&](std::string_view line) {
    lengths.push_back(line.size());
    return true;
  }));
  EXPECT_EQ(lengths, (std::vector<std::size_t>{10'000, 0, 1, 5'000}));
  lengths.clear();
  ASSERT_TRUE(read_lines(name, [&](std::string_view line) {
    lengths.push_back(line.size());
    return lengths.size() < 2;
  }));
  EXPECT_EQ(lengths.size(), 2U);
  unlink(name);
  EXPECT_FALSE(read_lines(name, [](std::string_view) { return true; }));
}

}  // namespace
}  // namespace varve

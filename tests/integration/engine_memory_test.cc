// SPDX-License-Identifier: Apache-2.0
//
// Kinds of memory, through the whole engine: each is captured by copy and by fork, changed, and brought back; or
// refused by protect() with the reason. Which writes a tracker can't see, and that touch() declares them, is in
// tests/contract/tracker_memory_test.cc.
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tests/integration/engine_fixture.h"

namespace varve {
namespace {

using namespace test;

constexpr std::size_t kPages = 64;
constexpr int kMadvGuardInstall = 102;  // since Linux 6.13: include/uapi/asm-generic/mman-common.h

std::size_t bytes() { return kPages * Pages::page_bytes(); }

/// Memory of one kind; `skip` says why there is none.
struct Kind {
  std::byte* begin = nullptr;
  std::string skip = {};
};

Kind map(int flags, int fd = -1) {
  void* const made = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, flags, fd, 0);
  if (made == MAP_FAILED) return {.skip = std::string("mmap: ") + std::strerror(errno)};
  return {.begin = static_cast<std::byte*>(made)};
}

Kind advised(int advice) {
  Kind kind = map(MAP_PRIVATE | MAP_ANONYMOUS);
  if (kind.skip.empty() && madvise(kind.begin, bytes(), advice) != 0)
    kind.skip = std::string("madvise: ") + std::strerror(errno);
  return kind;
}

/// A file without a name, filled.
int unnamed_file() {
  const char* directory = std::getenv("TMPDIR");
  std::string path = std::string(directory == nullptr || *directory == '\0' ? "/tmp" : directory) + "/varve-XXXXXX";
  const int fd = mkostemp(path.data(), O_CLOEXEC);
  unlink(path.c_str());
  const std::vector<char> content(bytes(), 'f');
  return write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size()) ? fd : -1;
}

Kind file(int flags) {
  const int fd = unnamed_file();
  Kind kind = map(flags, fd);
  close(fd);
  return kind;
}

Kind locked() {
  Kind kind = map(MAP_PRIVATE | MAP_ANONYMOUS);
  if (kind.skip.empty() && mlock(kind.begin, bytes()) != 0) kind.skip = std::string("mlock: ") + std::strerror(errno);
  return kind;
}

Kind bound_to_a_node() {
  Kind kind = map(MAP_PRIVATE | MAP_ANONYMOUS);
  const unsigned long node = 1;  // the mask of node 0
  if (kind.skip.empty() && syscall(SYS_mbind, kind.begin, bytes(), MPOL_BIND, &node, sizeof node * 8, 0) != 0)
    kind.skip = std::string("mbind: ") + std::strerror(errno);
  return kind;
}

Kind shared_memory_file() {
  const int fd = memfd_create("varve-test", MFD_CLOEXEC);
  Kind kind{.skip = "memfd_create"};
  if (fd >= 0 && ftruncate(fd, static_cast<off_t>(bytes())) == 0) kind = map(MAP_SHARED, fd);
  close(fd);
  return kind;
}

struct Case {
  const char* name;
  Kind (*make)();
};

class EngineMemory : public testing::TestWithParam<Case> {};

void change(std::byte* begin, std::uint64_t seed) {
  for (const std::size_t page : {0U, 17U, 63U})
    fill({begin + page * Pages::page_bytes(), Pages::page_bytes()}, seed + page);
}

TEST_P(EngineMemory, is_captured_changed_and_brought_back) {
  const Kind kind = GetParam().make();
  if (!kind.skip.empty()) GTEST_SKIP() << kind.skip;
  const std::span<std::byte> memory(kind.begin, bytes());
  for (const Capture capture : {Capture::copy, Capture::fork}) {
    const TemporaryDirectory directory;
    Options options = small_options(directory / "store");
    options.capture = capture;
    auto engine = Engine::open(options);
    if (!engine && engine.error().code() == ErrorCode::unsupported) continue;  // no fork here
    ASSERT_OK(engine);
    fill(memory, 1);
    ASSERT_OK(engine->protect("memory", memory.data(), memory.size()));
    ASSERT_OK(checkpoint(*engine));
    std::vector<std::vector<std::byte>> contents = {copy_of(memory)};
    for (std::uint64_t epoch = 2; epoch < 6; ++epoch) {
      change(kind.begin, epoch * 100);
      contents.push_back(copy_of(memory));
      const auto image = checkpoint(*engine);
      ASSERT_OK(image);
      EXPECT_EQ(image->changed_chunks, 3U) << GetParam().name << ", image " << image->image;
    }
    for (const std::size_t image : {2U, 5U, 1U}) {
      ASSERT_OK(engine->restore(std::to_string(image)));
      EXPECT_TRUE(same(memory, contents[image - 1])) << GetParam().name << ", image " << image;
    }
    ASSERT_OK(engine->close());
  }
  munmap(kind.begin, bytes());
}

INSTANTIATE_TEST_SUITE_P(Kinds, EngineMemory,
                         testing::Values(Case{"anonymous", [] { return map(MAP_PRIVATE | MAP_ANONYMOUS); }},
                                         Case{"shared_anonymous", [] { return map(MAP_SHARED | MAP_ANONYMOUS); }},
                                         Case{"shared_memory_file", shared_memory_file},
                                         Case{"private_file", [] { return file(MAP_PRIVATE); }},
                                         Case{"shared_file", [] { return file(MAP_SHARED); }},  //
                                         Case{"locked", locked},                                //
                                         Case{"bound_to_a_node", bound_to_a_node},
                                         Case{"dontfork", [] { return advised(MADV_DONTFORK); }},
                                         Case{"wipeonfork", [] { return advised(MADV_WIPEONFORK); }},
                                         Case{"mergeable", [] { return advised(MADV_MERGEABLE); }},
                                         Case{"hugepage", [] { return advised(MADV_HUGEPAGE); }}),
                         [](const auto& one) { return std::string(one.param.name); });

/// protect() refuses the range, with these words in its message, and leaves no region of that name behind.
void expect_refused(std::byte* begin, std::size_t length, ErrorCode code, const std::string& words) {
  const TemporaryDirectory directory;
  auto engine = Engine::open(small_options(directory / "store"));
  ASSERT_OK(engine);
  const Status refused = engine->protect("memory", begin, length);
  ASSERT_ERROR(code, refused);
  EXPECT_NE(refused.error().message().find(words), std::string::npos) << refused.error().message();
  Pages others(4);
  EXPECT_OK(engine->protect("memory", others.begin(), others.bytes()));
  EXPECT_OK(checkpoint(*engine));
}

TEST(EngineMemoryRefused, guard_regions) {
  Pages memory(kPages);
  fill(memory.span(), 1);
  if (madvise(memory.page(30), Pages::page_bytes(), kMadvGuardInstall) != 0)
    GTEST_SKIP() << "MADV_GUARD_INSTALL: " << std::strerror(errno);
  expect_refused(memory.begin(), memory.bytes(), ErrorCode::invalid_argument, "guard region");
}

TEST(EngineMemoryRefused, files_that_end_before_the_range) {
  const int fd = unnamed_file();
  const Kind kind = map(MAP_SHARED, fd);
  ASSERT_EQ(kind.skip, "");
  ASSERT_EQ(ftruncate(fd, static_cast<off_t>(10 * Pages::page_bytes())), 0);
  close(fd);
  expect_refused(kind.begin, bytes(), ErrorCode::invalid_argument, "ends before");
  munmap(kind.begin, bytes());
}

TEST(EngineMemoryRefused, hugetlbfs) {
  constexpr std::size_t kBytes = std::size_t{2} << 20;
  void* const huge =
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
  if (huge == MAP_FAILED) GTEST_SKIP() << "MAP_HUGETLB: " << std::strerror(errno);
  expect_refused(static_cast<std::byte*>(huge), kBytes, ErrorCode::unsupported, "hugetlbfs");
  munmap(huge, kBytes);
}

TEST(EngineMemoryRefused, memory_that_may_not_be_read) {
  Pages memory(kPages);
  ASSERT_EQ(mprotect(memory.page(30), Pages::page_bytes(), PROT_NONE), 0);
  expect_refused(memory.begin(), memory.bytes(), ErrorCode::invalid_argument, "can't be read");
}

// All memory of the program locked, that of the engine included, under a limit.
int run_with_all_memory_locked(const std::vector<std::string>& arguments) {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || (geteuid() != 0 && limit.rlim_cur < (rlim_t{256} << 20))) return 77;
  if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) return 77;
  Pages memory(kPages);
  fill(memory.span(), 1);
  auto engine = Engine::open(small_options(arguments[0]));
  if (!engine || !engine->protect("memory", memory.begin(), memory.bytes())) return 1;
  if (!checkpoint(*engine)) return 2;
  change(memory.begin(), 7);
  const auto content = copy_of(memory.span());
  if (!checkpoint(*engine)) return 3;
  fill(memory.span(), 9);
  if (!engine->restore("latest") || !same(memory.span(), content)) return 4;
  return engine->close() ? 0 : 5;
}

TEST(EngineMemoryLocked, a_program_that_locks_all_its_memory_is_served) {
  const TemporaryDirectory directory;
  const ChildEnd end = run_child("all-locked", {directory / "store"});
  if (end.exit_status == 77) GTEST_SKIP() << "mlockall: not permitted";
  EXPECT_EQ(end.exit_status, 0) << "signal " << end.signal;
}

}  // namespace
}  // namespace varve

int main(int argc, char** argv) {
  return varve::test::run_tests_or_child(argc, argv, {{"all-locked", varve::run_with_all_memory_locked}});
}

// SPDX-License-Identifier: Apache-2.0
//
// What `uring` and `posix` promise in a real directory: permissions, symbolic links, foreign owners, forks, locks of
// killed holders, full disks, and the choice of the back end where io_uring is refused. Passes as root and as an
// ordinary user.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/aligned_buffer.h"
#include "storage/io.h"
#include "tests/support/child_process.h"
#include "tests/support/refuse_syscalls.h"
#include "tests/support/temporary_directory.h"

namespace varve::storage {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class IoOnDisk : public testing::TestWithParam<IoKind> {
 protected:
  void SetUp() override {
    const auto reports = probe_io();
    for (const IoReport& report : reports)
      if (report.kind == GetParam() && !report.available) GTEST_SKIP() << report.reason;
  }
  IoOptions options() const {
    IoOptions options;
    options.kind = GetParam();
    return options;
  }
  std::unique_ptr<Io> open() { return open_io(store_, options()).value(); }

  test::TemporaryDirectory directory_;
  std::string store_ = directory_ / "store";
  const std::vector<std::byte> bytes_ = std::vector<std::byte>(100000, std::byte{0x5a});
};

mode_t mode_of(const std::string& path) {
  struct stat status {};
  EXPECT_EQ(lstat(path.c_str(), &status), 0) << path;
  return status.st_mode & 07777;
}

TEST_P(IoOnDisk, ModesAreClosedToOthersWhateverTheUmask) {
  for (const mode_t mask : {0U, 022U, 0777U}) {
    const std::string store = directory_ / std::to_string(mask);
    const mode_t before = umask(mask);
    auto io = open_io(store, options());
    ASSERT_TRUE(io) << io.error().message();
    EXPECT_TRUE((*io)->make_directory("segments"));
    EXPECT_TRUE((*io)->open("segments/a", OpenMode::create_direct));
    EXPECT_TRUE((*io)->lock(0, true));
    umask(before);
    EXPECT_EQ(mode_of(store), 0700U);
    EXPECT_EQ(mode_of(store + "/segments"), 0700U);
    EXPECT_EQ(mode_of(store + "/segments/a"), 0600U);
    EXPECT_EQ(mode_of(store + "/lock"), 0600U);
  }
}

/// Tries to get out of the store through links; 0 when nothing did.
int follow_links(Io& io, const std::string& outside) {
  const std::string store = io.directory();
  std::filesystem::create_directory(outside);
  std::ofstream(outside + "/file") << "secret";
  std::filesystem::create_symlink(outside, store + "/link");
  std::filesystem::create_symlink(outside + "/file", store + "/data");
  for (const char* name : {"data", "link/file"}) {
    for (const OpenMode mode : {OpenMode::read, OpenMode::write}) {
      const auto opened = io.open(name, mode);
      if (opened) return 1;
      if (opened.error().os_errno() != ELOOP && opened.error().os_errno() != ENOTDIR) return 2;
    }
  }
  if (io.open("link/new", OpenMode::create) || io.open("data", OpenMode::create)) return 3;
  if (io.list("link") || io.remove("link/file") || io.make_directory("link/folder") || io.sync_directory("link"))
    return 4;
  if (io.rename("link/file", "stolen") || io.make_directory("link")) return 5;
  std::filesystem::create_symlink(outside + "/lock", store + "/lock");
  if (io.lock(0, true) || std::filesystem::exists(outside + "/lock")) return 6;
  return 0;
}

TEST_P(IoOnDisk, SymbolicLinksAreNotFollowed) {
  auto io = open();
  EXPECT_EQ(follow_links(*io, directory_ / "outside"), 0);
}

TEST_P(IoOnDisk, SymbolicLinksAreNotFollowedWithoutOpenat2Either) {
  for (const int os_errno : {ENOSYS, EPERM}) {
    const std::string tag = std::to_string(os_errno);
    const int code = test::run_child([&] {
      if (!test::refuse_syscalls({SYS_openat2}, os_errno)) return 77;
      auto io = open_io(store_ + tag, options());
      if (!io || !(*io)->make_directory("segments") || !(*io)->open("segments/a", OpenMode::create)) return 10;
      return follow_links(**io, directory_ / ("outside" + tag));
    });
    if (code == 77) GTEST_SKIP() << "no seccomp filters here";
    EXPECT_EQ(code, 0);
  }
}

TEST_P(IoOnDisk, OnlyPlainFilesAreOpened) {
  auto io = open();
  ASSERT_EQ(mkfifo((store_ + "/fifo").c_str(), 0600), 0);
  for (const OpenMode mode : {OpenMode::read, OpenMode::write}) {
    const auto opened = io->open("fifo", mode);  // must not wait for a writer
    ASSERT_FALSE(opened);
    EXPECT_THAT(opened.error().message(), HasSubstr("not a plain file"));
  }
}

TEST_P(IoOnDisk, ForeignStoresAreRefusedUnlessAllowed) {
  std::string foreign = "/";  // root's
  if (geteuid() == 0) {
    foreign = directory_ / "foreign";
    std::filesystem::create_directory(foreign);
    ASSERT_EQ(chown(foreign.c_str(), 65534, 65534), 0);
  }
  const auto refused = open_io(foreign, options());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::invalid_argument);
  EXPECT_THAT(refused.error().message(), HasSubstr("belongs to"));
  IoOptions allowed = options();
  allowed.allow_foreign = true;
  EXPECT_TRUE(open_io(foreign, allowed));
}

TEST_P(IoOnDisk, StoresThatOthersCanWriteAreRefusedUnlessAllowed) {
  { auto io = open(); }
  IoOptions allowed = options();
  allowed.allow_foreign = true;
  for (const mode_t mode : {0770U, 0702U}) {
    ASSERT_EQ(chmod(store_.c_str(), mode), 0);
    const auto refused = open_io(store_, options());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), ErrorCode::invalid_argument);
    EXPECT_THAT(refused.error().message(), HasSubstr("chmod go-w"));
    EXPECT_TRUE(open_io(store_, allowed));
  }
  ASSERT_EQ(chmod(store_.c_str(), 0755), 0);  // readable is fine
  auto io = open();
  ASSERT_TRUE(io->open("data", OpenMode::create));
  ASSERT_EQ(chmod((store_ + "/data").c_str(), 0666), 0);
  EXPECT_FALSE(io->open("data", OpenMode::read));
  EXPECT_TRUE(open_io(store_, allowed).value()->open("data", OpenMode::read));
}

TEST_P(IoOnDisk, DirectoriesThatCanNotBeStoresAreRefused) {
  IoOptions no_create = options();
  no_create.create = false;
  const auto missing = open_io(store_, no_create);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), ErrorCode::not_found);
  EXPECT_FALSE(std::filesystem::exists(store_));
  const auto no_parent = open_io(store_ + "/deep", options());
  ASSERT_FALSE(no_parent);
  EXPECT_EQ(no_parent.error().code(), ErrorCode::not_found);
  EXPECT_THAT(no_parent.error().message(), HasSubstr("parent"));
  std::ofstream(directory_ / "file") << "x";
  const auto file = open_io(directory_ / "file", options());
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code(), ErrorCode::invalid_argument);
  EXPECT_FALSE(open_io("", options()));
}

TEST_P(IoOnDisk, DirectFilesAreAnOffer) {
  IoOptions buffered = options();
  buffered.allow_direct = false;
  auto io = open_io(store_, buffered).value();
  EXPECT_FALSE(io->file_system().value().direct);
  EXPECT_FALSE(io->open("data", OpenMode::create_direct).value()->direct());
  auto direct = open();
  EXPECT_EQ(direct->open("data", OpenMode::write_direct).value()->direct(), direct->file_system().value().direct);
  EXPECT_THAT(direct->list("").value(), ElementsAre("data")) << "probing leaves nothing";
}

TEST_P(IoOnDisk, LocksHoldAgainstOtherProcessesAndEndWithTheirHolder) {
  int ready[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  const pid_t holder = test::start_child([&] {
    auto io = open_io(store_, options());
    if (!io) return 1;
    auto lock = (*io)->lock(5, true);
    if (!lock || write(ready[1], "x", 1) != 1) return 2;
    while (true) pause();
  });
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  close(ready[0]);
  close(ready[1]);
  auto io = open();
  const auto refused = io->lock(5, false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::busy);
  kill(holder, SIGKILL);
  EXPECT_EQ(test::wait_child(holder), -SIGKILL);
  EXPECT_TRUE(io->lock(5, true));
}

TEST_P(IoOnDisk, ForkedChildrenKeepNoLockAndTouchNothing) {
  auto io = open();
  auto lock = io->lock(5, true);
  ASSERT_TRUE(lock);
  auto file = io->open("data", OpenMode::create).value();
  for (std::size_t i = 0; i < 8; ++i) ASSERT_TRUE(file->submit_write(i * bytes_.size(), bytes_));
  int done[2];
  ASSERT_EQ(pipe2(done, O_CLOEXEC), 0);
  const pid_t child = test::start_child([&] {
    close(done[1]);
    std::byte byte{};
    const auto unsupported = [](const auto& result) {
      return !result && result.error().code() == ErrorCode::unsupported;
    };
    if (!unsupported(file->submit_write(0, bytes_)) || !unsupported(file->drain()) || !unsupported(file->sync()))
      return 1;
    if (!unsupported(file->read(0, {&byte, 1})) || !unsupported(file->size_bytes())) return 2;
    if (!unsupported(io->open("other", OpenMode::create)) || !unsupported(io->lock(6, true))) return 3;
    if (!unsupported(io->list("")) || !unsupported(io->remove("data")) || !unsupported(io->file_system())) return 4;
    if (!unsupported(file->wait_writes(8)) || file->completed_writes() != 0) return 5;
    file.reset();
    lock.value().reset();
    io.reset();
    char end = 0;
    return read(done[0], &end, 1) == 0 ? 0 : 6;  // lives until the parent has looked
  });
  close(done[0]);
  ASSERT_TRUE(file->drain());
  EXPECT_EQ(file->completed_writes(), 8U);
  EXPECT_FALSE(io->lock(5, true)) << "the child must not have taken the lock away";
  lock.value().reset();
  EXPECT_TRUE(io->lock(5, true)) << "the child must not keep the lock";
  ASSERT_TRUE(file->submit_write(0, bytes_));
  ASSERT_TRUE(file->sync());
  close(done[1]);
  EXPECT_EQ(test::wait_child(child), 0);
}

TEST_P(IoOnDisk, ShortWritesGoOnUntilTheErrorIsKnown) {
  const int code = test::run_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 350000, .rlim_max = 350000};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
    auto io = open_io(store_, options());
    if (!io) return 2;
    auto file = (*io)->open("data", OpenMode::create);
    if (!file) return 3;
    for (std::size_t i = 0; i < 4; ++i)
      if (!(*file)->submit_write(i * bytes_.size(), bytes_) && i < 3) return 4;
    const Status drained = (*file)->drain();
    if (drained || drained.error().os_errno() != EFBIG) return 5;
    if (drained.error().message().find("/data at offset 300000 failed") == std::string::npos) return 6;
    if ((*file)->size_bytes().value() != 350000) return 7;  // the fourth was cut short first
    return (*file)->drain() && (*file)->sync() ? 0 : 8;
  });
  EXPECT_EQ(code, 0);
}

extern "C" void ignore_alarm(int) {}

TEST_P(IoOnDisk, SignalsOfTheProgramDoNotDisturbTransfers) {
  const int code = test::run_child([&] {
    struct sigaction action {};
    action.sa_handler = &ignore_alarm;  // without SA_RESTART: calls that wait end with EINTR
    sigaction(SIGALRM, &action, nullptr);
    auto io = open_io(store_, options());
    if (!io) return 1;
    auto file = (*io)->open("data", OpenMode::create).value();
    const itimerval often{.it_interval = {0, 300}, .it_value = {0, 300}};
    setitimer(ITIMER_REAL, &often, nullptr);
    for (unsigned round = 0; round < 20; ++round) {
      for (std::size_t i = 0; i < 20; ++i)
        if (!file->submit_write(i * bytes_.size(), bytes_)) return 2;
      if (!file->sync()) return 3;
    }
    std::vector<std::byte> back(bytes_.size());
    for (std::size_t i = 0; i < 20; ++i)
      if (!file->read(i * bytes_.size(), back) || back != bytes_) return 4;
    return 0;
  });
  EXPECT_EQ(code, 0);
}

TEST_P(IoOnDisk, WritesOutliveTheThreadThatSubmittedThem) {
  auto io = open();
  for (unsigned round = 0; round < 20; ++round) {
    auto file = io->open("data" + std::to_string(round), OpenMode::create_direct).value();
    AlignedBuffer buffer(16 * 65536);
    std::memset(buffer.data(), 0x5a, buffer.size());
    std::thread([&] {
      for (std::size_t i = 0; i < 16; ++i)
        EXPECT_TRUE(file->submit_write(i * 65536, buffer.span().subspan(i * 65536, 65536)));
    }).join();
    const Status drained = file->drain();
    ASSERT_TRUE(drained) << drained.error().message();
    std::vector<std::byte> back(buffer.size());
    ASSERT_EQ(file->read(0, back).value(), back.size());
    EXPECT_EQ(std::memcmp(back.data(), buffer.data(), back.size()), 0);
  }
}

/// In a forked child: a mount of its own. False where neither root nor a user namespace may.
bool mount_tiny_tmpfs(const std::string& path) {
  const std::string map = "0 " + std::to_string(geteuid()) + " 1";
  const gid_t group = getegid();
  if (unshare(CLONE_NEWNS) != 0) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    std::ofstream("/proc/self/uid_map") << map;
    std::ofstream("/proc/self/setgroups") << "deny";
    std::ofstream("/proc/self/gid_map") << "0 " << group << " 1";
    if (geteuid() != 0) return false;
  }
  mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  return mkdir(path.c_str(), 0700) == 0 && mount("tiny", path.c_str(), "tmpfs", 0, "size=256k,mode=0700") == 0;
}

TEST_P(IoOnDisk, FullFileSystemIsAnErrorOfTheWriteAndPasses) {
  const int code = test::run_child([&] {
    if (!mount_tiny_tmpfs(store_)) return 77;
    auto io = open_io(store_, options());
    if (!io) return 1;
    const FileSystemTraits traits = (*io)->file_system().value();
    if (traits.type != "tmpfs" || traits.durable || traits.free_bytes > 256 << 10) return 2;
    auto file = (*io)->open("data", OpenMode::create);
    if (!file) return 3;
    for (std::size_t i = 0; i < 4; ++i) {
      const Status submitted = (*file)->submit_write(i * bytes_.size(), bytes_);
      if (!submitted && submitted.error().os_errno() != ENOSPC) return 4;
    }
    const Status drained = (*file)->drain();
    if (drained || drained.error().os_errno() != ENOSPC) return 5;
    if (const Status reserved = (*file)->allocate(0, 1 << 20); reserved || reserved.error().os_errno() != ENOSPC)
      return 6;
    if (!(*file)->truncate(0) || !(*file)->submit_write(0, bytes_) || !(*file)->sync()) return 7;
    std::vector<std::byte> back(bytes_.size());
    return (*file)->read(0, back).value() == back.size() && back == bytes_ ? 0 : 8;
  });
  if (code == 77) GTEST_SKIP() << "no mounts allowed here, neither as root nor in a user namespace";
  EXPECT_EQ(code, 0);
}

std::set<int> open_descriptors() {
  std::set<int> found;
  for (int fd = 0; fd < 1024; ++fd)
    if (fcntl(fd, F_GETFD) >= 0) found.insert(fd);
  return found;
}

TEST_P(IoOnDisk, DescriptorsAreCloseOnExecAndAllGivenBack) {
  const std::set<int> before = open_descriptors();
  {
    auto io = open();
    auto lock = io->lock(1, true);
    auto file = io->open("data", OpenMode::create_direct).value();
    auto other = io->open("data", OpenMode::read).value();
    AlignedBuffer buffer(8 * kIoAlignment);
    std::memset(buffer.data(), 0, buffer.size());
    ASSERT_TRUE(file->submit_write(0, buffer.span()));
    ASSERT_TRUE(io->list(""));
    ASSERT_TRUE(io->sync_directory(""));
    const std::set<int> during = open_descriptors();
    EXPECT_GE(during.size(), before.size() + 4);
    for (const int fd : during) {
      if (!before.contains(fd)) {
        EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC) << fd;
      }
    }
    ASSERT_TRUE(file->drain());
  }
  EXPECT_EQ(open_descriptors(), before);
}

INSTANTIATE_TEST_SUITE_P(BackEnds, IoOnDisk, testing::Values(IoKind::uring, IoKind::posix),
                         [](const auto& instance) { return std::string(to_string(instance.param)); });

TEST(PosixIo, ThreadsBlockAllSignals) {
  test::TemporaryDirectory directory;
  IoOptions options;
  options.kind = IoKind::posix;
  auto io = open_io(directory / "store", options).value();
  auto file = io->open("data", OpenMode::create).value();
  const std::vector<std::byte> bytes(1000);
  ASSERT_TRUE(file->submit_write(0, bytes));
  ASSERT_TRUE(file->drain());
  unsigned found = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::ifstream(entry.path() / "comm") >> name;
    if (name != "varve-io") continue;
    ++found;
    std::ifstream status(entry.path() / "status");
    std::string word;
    while (status >> word && word != "SigBlk:") {
    }
    std::uint64_t blocked = 0;
    status >> std::hex >> blocked;
    for (const int number : {SIGTERM, SIGINT, SIGALRM, SIGUSR1, SIGCHLD, SIGPROF, SIGXFSZ, SIGRTMIN, SIGRTMAX})
      EXPECT_TRUE((blocked >> (number - 1)) & 1) << number;
  }
  EXPECT_GE(found, 1U);
}

TEST(IoChoice, UringRefusedBySeccompFallsBackToPosixAndSaysWhy) {
  test::TemporaryDirectory directory;
  for (const int os_errno : {EPERM, ENOSYS}) {
    const int code = test::run_child([&] {
      unsetenv("VARVE_IO");
      if (!test::refuse_syscalls({SYS_io_uring_setup}, os_errno)) return 77;
      const auto io = open_io(directory / "store", {});
      if (!io || (*io)->kind() != IoKind::posix) return 1;
      if ((*io)->why().find(os_errno == EPERM ? "EPERM" : "ENOSYS") == std::string::npos) return 2;
      if (!(*io)->open("data" + std::to_string(os_errno), OpenMode::create)) return 3;
      IoOptions forced;
      forced.kind = IoKind::uring;
      const auto refused = open_io(directory / "store", forced);
      if (refused || refused.error().code() != ErrorCode::unsupported) return 4;
      if (refused.error().message().find("io_uring") == std::string::npos) return 5;
      const auto reports = probe_io();
      return !reports[0].available && !reports[0].reason.empty() && reports[1].available ? 0 : 6;
    });
    if (code == 77) GTEST_SKIP() << "no seccomp filters here";
    EXPECT_EQ(code, 0);
  }
}

/// Ten writes, flushed and read back. 0: all is there; 77: `midway`, called between them, could not do its work.
int write_and_read_back(Io& io, const std::function<bool()>& midway) {
  auto file = io.open("data", OpenMode::create).value();
  const std::vector<std::byte> bytes(300000, std::byte{7});
  for (std::size_t i = 0; i < 10; ++i) {
    if (i == 5 && !midway()) return 77;
    if (!file->submit_write(i * bytes.size(), bytes)) return 2;
  }
  if (!file->sync()) return 3;
  std::vector<std::byte> back(10 * bytes.size());
  if (const auto read = file->read(0, back); !read || *read != back.size()) return 4;
  return std::all_of(back.begin(), back.end(), [](std::byte byte) { return byte == std::byte{7}; }) ? 0 : 5;
}

TEST(IoChoice, TransfersGoOnWhenTheProgramForbidsItselfIoUringLater) {
  if (!probe_io()[0].available) GTEST_SKIP() << probe_io()[0].reason;
  test::TemporaryDirectory directory;
  const int code = test::run_child([&] {
    IoOptions options;
    options.kind = IoKind::uring;
    auto io = open_io(directory / "store", options);
    if (!io) return 1;
    return write_and_read_back(**io, [] {
      return test::refuse_syscalls({SYS_io_uring_setup, SYS_io_uring_enter}, EPERM);
    });
  });
  if (code == 77) GTEST_SKIP() << "no seccomp filters here";
  EXPECT_EQ(code, 0);
}

TEST(IoChoice, WritesGoOnWhereTheUserMayHaveNoMoreThreads) {
  if (!probe_io()[0].available) GTEST_SKIP() << probe_io()[0].reason;
  constexpr uid_t kNobody = 65534;
  test::TemporaryDirectory directory;
  if (geteuid() == 0) {  // whom that limit does not bind
    ASSERT_EQ(chown(directory.path().c_str(), kNobody, kNobody), 0);
  }
  const int code = test::run_child([&] {
    if (geteuid() == 0 && (setgid(kNobody) != 0 || setuid(kNobody) != 0)) return 77;
    IoOptions options;
    options.kind = IoKind::uring;
    auto io = open_io(directory / "store", options);
    if (!io) return 1;
    // The kernel's own threads for what it can't do at once are the user's, too.
    const rlimit none{0, 0};
    if (setrlimit(RLIMIT_NPROC, &none) != 0) return 6;
    return write_and_read_back(**io, [] { return true; });
  });
  if (code == 77) GTEST_SKIP() << "this root can't become another user";
  EXPECT_EQ(code, 0);
}

TEST(IoChoice, EnvironmentChoosesUnlessTheCallerDoes) {
  test::TemporaryDirectory directory;
  const int code = test::run_child([&] {
    setenv("VARVE_IO", "posix", 1);
    auto io = open_io(directory / "store", {});
    if (!io || (*io)->kind() != IoKind::posix || (*io)->why() != "VARVE_IO=posix") return 1;
    setenv("VARVE_IO", "floppy", 1);
    const auto refused = open_io(directory / "store", {});
    if (refused || refused.error().code() != ErrorCode::invalid_argument) return 2;
    if (refused.error().message().find("VARVE_IO=floppy") == std::string::npos) return 3;
    IoOptions options;
    options.kind = IoKind::posix;
    return open_io(directory / "store", options) ? 0 : 4;
  });
  EXPECT_EQ(code, 0);
}

}  // namespace
}  // namespace varve::storage

// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the engine share: a directory that goes away, page-aligned memory, and child processes that run a
// function of the same program.
#pragma once

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "varve/varve.h"

#define ASSERT_OK(...) ASSERT_TRUE(::varve::test::succeeded(__VA_ARGS__)) << #__VA_ARGS__
#define EXPECT_OK(...) EXPECT_TRUE(::varve::test::succeeded(__VA_ARGS__)) << #__VA_ARGS__
/// ASSERTs, so that the error may be looked at afterwards.
#define ASSERT_ERROR(code, ...) ASSERT_TRUE(::varve::test::failed_with(code, __VA_ARGS__)) << #__VA_ARGS__

namespace varve::test {

template <class T>
::testing::AssertionResult succeeded(const Result<T>& result) {
  if (result.has_value()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << result.error().message() << " ";
}
template <class T>
::testing::AssertionResult failed_with(ErrorCode code, const Result<T>& result) {
  if (result.has_value()) return ::testing::AssertionFailure() << "succeeded ";
  if (result.error().code() == code) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "is " << to_string(result.error().code()) << ": " << result.error().message()
                                       << " ";
}

/// Under $TMPDIR or /tmp; removed with what is in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    const char* base = std::getenv("TMPDIR");
    path_ = std::string(base == nullptr || *base == '\0' ? "/tmp" : base) + "/varve-engine-XXXXXX";
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// Anonymous pages of its own, so that what lies in them is known.
class Pages {
 public:
  explicit Pages(std::size_t count) : Pages(count, MAP_PRIVATE | MAP_ANONYMOUS, -1) {}
  virtual ~Pages() { munmap(begin_, bytes_); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  static std::size_t page_bytes() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }
  std::byte* begin() const { return begin_; }
  std::size_t bytes() const { return bytes_; }
  std::byte* page(std::size_t index) const { return begin_ + index * page_bytes(); }
  std::span<std::byte> span() const { return {begin_, bytes_}; }

 protected:
  Pages(std::size_t count, int flags, int fd) : bytes_(count * page_bytes()) {
    void* made = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (made == MAP_FAILED) std::abort();
    begin_ = static_cast<std::byte*>(made);
  }

 private:
  std::byte* begin_ = nullptr;
  std::size_t bytes_;
};

/// Shared memory that can also be written through its descriptor.
class SharedPages : public Pages {
 public:
  explicit SharedPages(std::size_t count) : SharedPages(count, make(count)) {}
  ~SharedPages() override { close(fd_); }
  int descriptor() const { return fd_; }

 private:
  SharedPages(std::size_t count, int fd) : Pages(count, MAP_SHARED, fd), fd_(fd) {}
  static int make(std::size_t count) {
    const int fd = memfd_create("varve-test", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(count * page_bytes())) != 0) std::abort();
    return fd;
  }
  int fd_;
};

/// Content that is the same for the same seed, and has no two equal pages.
inline void fill(std::span<std::byte> memory, std::uint64_t seed) {
  std::uint64_t state = seed * 0x9e3779b97f4a7c15U + 1;
  for (std::size_t i = 0; i < memory.size(); i += sizeof state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    std::memcpy(memory.data() + i, &state, std::min(sizeof state, memory.size() - i));
  }
}

inline std::vector<std::byte> copy_of(std::span<const std::byte> memory) { return {memory.begin(), memory.end()}; }
inline bool same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

/// Staging is kept small, so that test programs can run side by side.
inline Options small_options(const std::string& store) {
  Options options;
  options.store = store;
  options.staging_bytes = std::size_t{16} << 20;
  return options;
}

/// A checkpoint that is waited for.
inline Result<ImageResult> checkpoint(Engine& engine, const CheckpointOptions& options = {}) {
  const auto ticket = engine.checkpoint(options);
  if (!ticket) return ticket.error();
  return ticket->wait();
}

struct ChildEnd {
  int exit_status = -1;  ///< -1 when a signal ended it
  int signal = 0;
};

/// Runs `/proc/self/exe --child ROLE ARGUMENT...` and waits for it.
ChildEnd run_child(const std::string& role, const std::vector<std::string>& arguments,
                   const std::map<std::string, std::string>& environment = {});

using ChildRole = std::function<int(const std::vector<std::string>&)>;
/// For the program's own main(): the role's exit status, where the command line asks for one; else runs the tests.
int run_tests_or_child(int argc, char** argv, const std::map<std::string, ChildRole>& roles);

inline ChildEnd run_child(const std::string& role, const std::vector<std::string>& arguments,
                          const std::map<std::string, std::string>& environment) {
  std::vector<std::string> words = {"/proc/self/exe", "--child", role};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text(*variable);
    if (!environment.contains(text.substr(0, text.find('=')))) variables.push_back(text);
  }
  for (const auto& [name, value] : environment) variables.push_back(name + "=" + value);
  std::vector<char*> envp;
  for (auto& variable : variables) envp.push_back(variable.data());
  envp.push_back(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    execve(argv[0], argv.data(), envp.data());
    _exit(127);
  }
  int status = 0;
  ChildEnd end;
  if (pid < 0 || waitpid(pid, &status, 0) != pid) return end;
  if (WIFEXITED(status)) end.exit_status = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) end.signal = WTERMSIG(status);
  return end;
}

inline int run_tests_or_child(int argc, char** argv, const std::map<std::string, ChildRole>& roles) {
  if (argc > 2 && std::string_view(argv[1]) == "--child") {
    const auto role = roles.find(argv[2]);
    return role == roles.end() ? 126 : role->second({argv + 3, argv + argc});
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace varve::test

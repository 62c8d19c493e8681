// SPDX-License-Identifier: Apache-2.0
#include "tests/support/program.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/check.h"

namespace varve::test {
namespace {

constexpr std::chrono::milliseconds kPatience(120'000);

struct Pipe {
  int read = -1;
  int write = -1;
};

Pipe make_pipe() {
  int ends[2];
  VARVE_CHECK(pipe2(ends, O_CLOEXEC) == 0);
  return {ends[0], ends[1]};
}

Pipe make_terminal() {
  Pipe terminal;
  VARVE_CHECK(openpty(&terminal.read, &terminal.write, nullptr, nullptr, nullptr) == 0);
  fcntl(terminal.read, F_SETFD, FD_CLOEXEC);
  fcntl(terminal.write, F_SETFD, FD_CLOEXEC);
  return terminal;
}

// In the child, out and err become its standard output and error; -1 leaves what it has.
pid_t spawn(const Invocation& invocation, int out, int err) {
  std::vector<std::string> words = invocation.words;
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text(*variable);
    if (!invocation.environment.contains(text.substr(0, text.find('=')))) variables.push_back(text);
  }
  for (const auto& [name, value] : invocation.environment) variables.push_back(name + "=" + value);
  std::vector<char*> envp;
  for (auto& variable : variables) envp.push_back(variable.data());
  envp.push_back(nullptr);

  const pid_t pid = fork();
  VARVE_CHECK(pid >= 0);
  if (pid != 0) return pid;
  if (out >= 0) dup2(out, STDOUT_FILENO);
  if (err >= 0) dup2(err, STDERR_FILENO);
  execve(argv[0], argv.data(), envp.data());
  _exit(127);
}

void set_end(Outcome& outcome, int status) {
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
}

// Reads both to their ends. False when that took too long.
bool drain(int out, int err, Outcome& outcome) {
  pollfd ends[2] = {{out, POLLIN, 0}, {err, POLLIN, 0}};
  std::string* texts[2] = {&outcome.out, &outcome.err};
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (ends[0].fd >= 0 || ends[1].fd >= 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    if (left.count() <= 0 || poll(ends, 2, static_cast<int>(left.count())) <= 0) return false;
    for (int i = 0; i < 2; ++i) {
      if (ends[i].fd < 0 || ends[i].revents == 0) continue;
      char piece[65536];
      const ssize_t got = read(ends[i].fd, piece, sizeof piece);
      if (got > 0)
        texts[i]->append(piece, static_cast<std::size_t>(got));
      else if (got == 0 || errno != EINTR)
        ends[i].fd = -1;  // EIO is a terminal's end
    }
  }
  return true;
}

}  // namespace

std::string built_program(const std::string& name) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  return (self.parent_path().parent_path() / name).string();
}

Outcome run_program(const Invocation& invocation) {
  const Pipe out = invocation.in_terminal == "out" ? make_terminal() : make_pipe();
  const Pipe err = make_pipe();
  const pid_t pid = spawn(invocation, out.write, err.write);
  close(out.write);
  close(err.write);
  Outcome outcome;
  if (!drain(out.read, err.read, outcome)) {
    kill(pid, SIGKILL);
    outcome.err += "\n(killed by the test: it took too long)";
  }
  close(out.read);
  close(err.read);
  int status = 0;
  VARVE_CHECK(waitpid(pid, &status, 0) == pid);
  set_end(outcome, status);
  return outcome;
}

RunningProgram::RunningProgram(const Invocation& invocation) {
  const Pipe out = make_pipe();
  pid_ = spawn(invocation, out.write, -1);
  close(out.write);
  out_ = out.read;
}

RunningProgram::~RunningProgram() {
  if (pid_ > 0) kill_and_wait();
}

bool RunningProgram::read_some(std::chrono::milliseconds patience) {
  pollfd end = {out_, POLLIN, 0};
  if (poll(&end, 1, static_cast<int>(patience.count())) <= 0) return false;
  char piece[4096];
  const ssize_t got = read(out_, piece, sizeof piece);
  if (got <= 0) return false;
  buffer_.append(piece, static_cast<std::size_t>(got));
  return true;
}

bool RunningProgram::next_line(std::string& line, std::chrono::milliseconds patience) {
  while (true) {
    if (const auto end = buffer_.find('\n'); end != std::string::npos) {
      line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return true;
    }
    if (!read_some(patience)) return false;
  }
}

Outcome RunningProgram::kill_and_wait() {
  kill(pid_, SIGKILL);
  return wait();
}

Outcome RunningProgram::wait() {
  while (read_some(kPatience)) {
  }
  Outcome outcome;
  outcome.out = std::move(buffer_);
  int status = 0;
  VARVE_CHECK(waitpid(pid_, &status, 0) == pid_);
  set_end(outcome, status);
  close(out_);
  pid_ = -1;
  return outcome;
}

}  // namespace varve::test

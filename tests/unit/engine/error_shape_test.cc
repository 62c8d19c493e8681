// SPDX-License-Identifier: Apache-2.0
//
// Every error says what failed and on which object, the cause, and the way out. At least one real error of each code,
// provoked through the engine's calls.
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/engine_implementation.h"
#include "tests/integration/engine_fixture.h"
#include "tests/support/simulated_io.h"

namespace varve::test {
namespace {

/// One part of a message, as it stands between the others' punctuation.
void check_part(const std::string& part, const std::string& name, const std::string& whole) {
  ASSERT_FALSE(part.empty()) << name << " of: " << whole;
  EXPECT_EQ(std::string(" .;:,").find(part.front()), std::string::npos) << name << " of: " << whole;
  EXPECT_EQ(std::string(" .;:,").find(part.back()), std::string::npos) << name << " of: " << whole;
  EXPECT_GE(part.size(), 8U) << name << " of: " << whole;
}

void check_shape(const Error& error, ErrorCode code, const std::string& object) {
  const std::string whole = error.message();
  EXPECT_EQ(error.code(), code) << whole;
  check_part(error.what(), "what", whole);
  check_part(error.cause(), "cause", whole);
  check_part(error.remedy(), "remedy", whole);
  for (const char* doubled : {"  ", "..", ";;", "; ;", ": :", ",,", ";.", ":;", "''"})
    EXPECT_EQ(whole.find(doubled), std::string::npos) << "'" << doubled << "' in: " << whole;
  EXPECT_NE((error.what() + error.cause()).find(object), std::string::npos) << object << " is not named by: " << whole;
}

template <class T>
void expect_shape(const Result<T>& result, ErrorCode code, const std::string& object) {
  ASSERT_FALSE(result.has_value()) << "no error that names " << object;
  check_shape(result.error(), code, object);
}

class ErrorShape : public ::testing::Test {
 protected:
  ErrorShape() { fill(memory_.span(), 1); }
  std::unique_ptr<EngineImplementation> opened(Options options = small_options("simulated")) {
    auto engine = EngineImplementation::open(options, disk_.open());
    if (!engine) ADD_FAILURE() << engine.error().message();
    return std::move(engine).value();
  }
  std::unique_ptr<EngineImplementation> with_image() {
    auto engine = opened();
    EXPECT_OK(engine->protect("grid", memory_.begin(), memory_.bytes(), {}));
    EXPECT_OK(engine->checkpoint({.sync = true, .label = "first"}));
    return engine;
  }

  const TemporaryDirectory directory_;
  SimulatedDisk disk_;
  Pages memory_{16};
};

TEST_F(ErrorShape, invalid_argument) {
  const auto code = ErrorCode::invalid_argument;
  const std::string store = directory_ / "store";
  Options options = small_options("");
  expect_shape(Engine::open(options), code, "Options::store");
  options = small_options(store);
  options.chain = "a/b";
  expect_shape(Engine::open(options), code, "a/b");
  options = small_options(store);
  options.images_in_flight = 0;
  expect_shape(Engine::open(options), code, store);
  options = small_options(store);
  options.chunk_bytes = 3;
  expect_shape(Engine::open(options), code, "3");

  auto engine = opened();
  expect_shape(engine->checkpoint({}), code, "main");
  expect_shape(engine->protect("no name", memory_.begin(), 8, {}), code, "no name");
  expect_shape(engine->protect("null", nullptr, 8, {}), code, "null");
  expect_shape(engine->protect("empty", memory_.begin(), 0, {}), code, "empty");
  EXPECT_OK(engine->protect("grid", memory_.begin(), memory_.bytes(), {}));
  expect_shape(engine->protect("grid", memory_.begin(), 8, {}), code, "grid");
  expect_shape(engine->protect("other", memory_.begin(), 8, {}), code, "other");
  expect_shape(engine->exclude("grid", memory_.bytes(), 1), code, "grid");
  expect_shape(engine->exclude("grid", 0, 0), code, "grid");
  expect_shape(engine->touch(nullptr, 8), code, "[0x0, 0x8)");
  expect_shape(engine->checkpoint({.label = "12"}), code, "12");
  EXPECT_OK(engine->checkpoint({.sync = true, .label = "twice"}));
  expect_shape(engine->checkpoint({.label = "twice"}), code, "twice");
  expect_shape(engine->restore("a b", {}), code, "a b");
  EXPECT_OK(engine->unprotect("grid"));
  expect_shape(engine->restore("latest", {}), code, "grid");
  EXPECT_OK(engine->close());
  expect_shape(engine->restore("latest", {}), code, "latest");
  expect_shape(engine->close(), code, "main");
}

TEST_F(ErrorShape, not_found) {
  const auto code = ErrorCode::not_found;
  auto engine = opened();
  expect_shape(engine->restore("latest", {}), code, "latest");
  expect_shape(engine->unprotect("grid"), code, "grid");
  expect_shape(engine->exclude("grid", 0, 1), code, "grid");
  EXPECT_OK(engine->protect("grid", memory_.begin(), memory_.bytes(), {}));
  EXPECT_OK(engine->checkpoint({.sync = true}));
  expect_shape(engine->restore("7", {}), code, "7");
  expect_shape(engine->restore("a-label", {}), code, "a-label");
  expect_shape(engine->restore("elsewhere/1", {}), code, "elsewhere");
  expect_shape(Engine::open(small_options(directory_ / "missing/store")), code, "missing");
}

TEST_F(ErrorShape, corruption) {
  EXPECT_OK(with_image()->close());
  for (const auto& file : disk_.files()) {
    if (!file.ends_with(".seg")) continue;
    for (std::uint64_t at = 0; at < disk_.size_bytes(file); at += 64) disk_.flip_bit(file, at, 0);
  }
  auto engine = EngineImplementation::open(small_options("simulated"), disk_.open());
  if (!engine) return check_shape(engine.error(), ErrorCode::corruption, "segments/");
  EXPECT_OK((*engine)->protect("grid", memory_.begin(), memory_.bytes(), {}));
  expect_shape((*engine)->restore_if_any({}), ErrorCode::corruption, "main");
}

TEST_F(ErrorShape, corruption_of_a_chunk_that_is_restored) {
  auto engine = with_image();
  for (const auto& file : disk_.files())
    if (file.ends_with(".seg")) disk_.flip_bit(file, 4096 + 2000, 3);
  fill(memory_.span(), 2);  // else there is nothing to read: memory holds the image
  expect_shape(engine->restore("1", {}), ErrorCode::corruption, "main/1");
  expect_shape(engine->checkpoint({}), ErrorCode::invalid_argument, "main/1");
}

TEST_F(ErrorShape, io) {
  auto engine = with_image();
  disk_.set_capacity(disk_.used_bytes());
  disk_.add_random_faults(SimulatedOperation::write, 1, ENOSPC);
  fill(memory_.span(), 2);
  const auto failed = engine->checkpoint({.sync = true});
  expect_shape(failed, ErrorCode::io, "segments/");
  EXPECT_EQ(failed.error().os_errno(), ENOSPC);
  disk_.set_capacity(~std::uint64_t{0});
  disk_.clear_faults();
  disk_.add_fault({.operation = SimulatedOperation::sync, .nth = 1, .os_errno = EIO, .count = 1, .file = ".seg"});
  expect_shape(engine->checkpoint({.sync = true}), ErrorCode::io, "segments/");
}

TEST_F(ErrorShape, busy) {
  auto engine = opened();
  expect_shape(EngineImplementation::open(small_options("simulated"), disk_.open()), ErrorCode::busy, "main");
}

TEST_F(ErrorShape, unsupported_in_a_forked_child) {
  auto engine = with_image();
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto refused = engine->checkpoint({});
    const std::string text = refused ? std::string()
                                     : std::string(to_string(refused.error().code())) + '\n' + refused.error().what() +
                                           '\n' + refused.error().cause() + '\n' + refused.error().remedy();
    [[maybe_unused]] const auto written = write(ends[1], text.data(), text.size());
    _exit(0);
  }
  close(ends[1]);
  std::string text(4096, '\0');
  const auto got = read(ends[0], text.data(), text.size());
  close(ends[0]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_GT(got, 0);
  text.resize(static_cast<std::size_t>(got));
  std::vector<std::string> parts(1);
  for (const char c : text)
    if (c == '\n')
      parts.emplace_back();
    else
      parts.back().push_back(c);
  ASSERT_EQ(parts.size(), 4U) << text;
  EXPECT_EQ(parts[0], "unsupported");
  check_shape(fail(ErrorCode::unsupported, {parts[1], parts[2], parts[3]}), ErrorCode::unsupported, "main");
}

}  // namespace
}  // namespace varve::test

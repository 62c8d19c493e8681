// SPDX-License-Identifier: Apache-2.0
//
// Result<T> and Status: how every call of Varve that can fail says so. No exceptions are thrown by the library.
//
// A Result holds a value or an Error. Member names are those of std::expected, so that this can become an alias once
// compilers have it. Errors are made by fail() only, which asks for the three parts that a reader needs: what failed
// and on which object, the cause, and the way out.
//
// Threads: values like any other; an Error is immutable and may be shared.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

namespace varve {

/// What the caller can do about it, not where it happened.
enum class ErrorCode : std::uint8_t {
  invalid_argument = 1,  ///< the call is wrong: mend it
  not_found = 2,         ///< no such store, chain, image or region
  corruption = 3,        ///< stored bytes are damaged: fall back to another image
  io = 4,                ///< the system refused (no space, I/O error): see os_errno; a later try may succeed
  unsupported = 5,       ///< this kernel, file system, machine or format version can't do it
  busy = 6,              ///< somebody else holds it: wait, or choose another
};

constexpr std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "invalid_argument";
    case ErrorCode::not_found: return "not_found";
    case ErrorCode::corruption: return "corruption";
    case ErrorCode::io: return "io";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::busy: return "busy";
  }
  return "unknown";
}

/// The parts of a message. All three are required; message() joins them: "<what>: <cause>; <remedy>".
struct ErrorText {
  std::string what;    ///< what was being done to which object: "checkpoint of chain 'main' refused"
  std::string cause;   ///< "store ckpt is being written by pid 4711"
  std::string remedy;  ///< the way out: "wait for it, or open another chain"
};

class [[nodiscard]] Error {
 public:
  ErrorCode code() const { return detail_->code; }
  /// The errno value behind an `io` error, or 0.
  int os_errno() const { return detail_->os_errno; }
  const std::string& what() const { return detail_->text.what; }
  const std::string& cause() const { return detail_->text.cause; }
  const std::string& remedy() const { return detail_->text.remedy; }
  std::string message() const { return detail_->text.what + ": " + detail_->text.cause + "; " + detail_->text.remedy; }

 private:
  struct Detail {
    ErrorCode code;
    int os_errno;
    ErrorText text;
  };
  explicit Error(std::shared_ptr<const Detail> detail) : detail_(std::move(detail)) {}
  friend Error fail(ErrorCode code, ErrorText text, int os_errno);
  std::shared_ptr<const Detail> detail_;  // small to move; only failing paths allocate
};

/// The one way to make an error.
inline Error fail(ErrorCode code, ErrorText text, int os_errno = 0) {
  return Error(std::make_shared<const Error::Detail>(Error::Detail{code, os_errno, std::move(text)}));
}

/// A value or an Error. Reading the wrong one is a bug in the caller and aborts.
template <class T>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  T& value() & { return checked(); }
  const T& value() const& { return const_cast<Result*>(this)->checked(); }
  T&& value() && { return std::move(checked()); }
  T& operator*() & { return checked(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(checked()); }
  T* operator->() { return &checked(); }
  const T* operator->() const { return &value(); }

  const Error& error() const {
    if (state_.index() != 1) std::abort();
    return *std::get_if<1>(&state_);
  }

 private:
  T& checked() {
    if (state_.index() != 0) std::abort();
    return *std::get_if<0>(&state_);
  }
  std::variant<T, Error> state_;
};

/// Success without a value, or an Error. `return {};` is success.
template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;

  Result() = default;
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  const Error& error() const {
    if (state_.index() != 1) std::abort();
    return *std::get_if<1>(&state_);
  }

 private:
  std::variant<std::monostate, Error> state_;
};

using Status = Result<void>;

}  // namespace varve

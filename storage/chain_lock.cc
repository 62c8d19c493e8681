// SPDX-License-Identifier: Apache-2.0
#include "storage/chain_lock.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/try.h"
#include "storage/chunk_name.h"

namespace varve::storage {
namespace {

constexpr std::uint64_t kChainBase = std::uint64_t{1} << 40;
constexpr std::uint64_t kChainSeed = 0x76617276656c636b;
constexpr std::string_view kLinePrefix = "varve-holder ";
constexpr std::size_t kMaxLockFileBytes = std::size_t{1} << 20;  // 4096 holders
constexpr unsigned kTablePatienceMs = 10'000;
constexpr unsigned kStorePatienceMs = 60'000;
constexpr unsigned kGateClosedMs = 250;
constexpr long kGateOpenNs = 50'000'000;

std::string_view field(std::string_view line, std::string_view key) {
  const std::size_t at = line.find(key);
  if (at == std::string_view::npos) return {};
  line.remove_prefix(at + key.size());
  return line.substr(0, line.find(' '));
}

bool number(std::string_view text, std::uint64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::string host_name() {
  std::array<char, 65> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  std::string text(name.data());
  std::ranges::replace_if(
      text, [](char c) { return c <= ' ' || c > '~'; }, '_');
  return text.empty() ? "unknown" : text;
}

Result<std::vector<LockHolder>> read_holders(File& file) {
  VARVE_TRY_ASSIGN(const std::uint64_t size, file.size_bytes());
  std::string content(static_cast<std::size_t>(std::min<std::uint64_t>(size, kMaxLockFileBytes)), '\0');
  VARVE_TRY_ASSIGN(const std::size_t got, file.read(0, std::as_writable_bytes(std::span(content))));
  content.resize(got);
  return decode_lock_lines(content);
}

/// Changes the lines: drops those whose holders are gone and those of `chain`, adds `added`. REQUIRES: byte 0 is held.
Status rewrite_lines(Io& io, std::string_view chain, const std::optional<LockHolder>& added) {
  VARVE_TRY_ASSIGN(const std::unique_ptr<File> file, io.open(kLockFile, OpenMode::write));
  VARVE_TRY_ASSIGN(std::vector<LockHolder> holders, read_holders(*file));
  std::erase_if(holders, [&](const LockHolder& holder) {
    // Whoever can lock a chain's byte proves that its holder is gone; we hold byte 0, so nobody acquires it meanwhile.
    return holder.chain == chain || io.lock(chain_lock_byte(holder.chain), true).has_value();
  });
  if (added) holders.push_back(*added);
  std::string content;
  for (const LockHolder& holder : holders) content += encode_lock_line(holder);
  VARVE_TRY(file->truncate(content.size()));
  if (!content.empty()) VARVE_TRY(file->submit_write(0, std::as_bytes(std::span(content))));
  return file->drain();
}

Error chain_is_busy(Io& io, std::string_view chain) {
  std::string holder = "another process";
  if (auto file = io.open(kLockFile, OpenMode::read)) {
    if (auto holders = read_holders(**file)) {
      for (const LockHolder& other : *holders) {
        if (other.chain != chain) continue;
        const auto since = static_cast<time_t>(other.since);
        tm local{};
        localtime_r(&since, &local);
        holder = fmt::format("pid {} on host {} since {:%Y-%m-%d %H:%M:%S}", other.pid, other.host, local);
      }
    }
  }
  return fail(ErrorCode::busy,
              {fmt::format("opening chain '{}' of store {} for writing refused", chain, io.directory()),
               fmt::format("it is being written by {}", holder), "wait for it, or open another chain"});
}

}  // namespace

std::uint64_t chain_lock_byte(std::string_view chain) {
  return kChainBase + (checksum(std::as_bytes(std::span(chain.data(), chain.size())), kChainSeed) >> 2);
}

Result<std::unique_ptr<Lock>> wait_for_lock(Io& io, std::uint64_t byte, bool exclusive, unsigned patience_ms,
                                            std::string_view what) {
  const std::uint64_t begin = monotonic_ns();
  for (long pause_ns = 100'000;; pause_ns = std::min(2 * pause_ns, 20'000'000L)) {
    auto lock = io.lock(byte, exclusive);
    if (lock || lock.error().code() != ErrorCode::busy) return lock;
    if (monotonic_ns() - begin > std::uint64_t{patience_ms} * 1'000'000)
      return fail(ErrorCode::busy, {fmt::format("{} of store {} could not be locked", what, io.directory()),
                                    fmt::format("others have held it for {} seconds", patience_ms / 1000),
                                    "look with `lsof` at who has the file 'lock' of the store open, and end it"});
    const timespec pause{0, pause_ns};
    nanosleep(&pause, nullptr);
  }
}

Result<std::unique_ptr<Lock>> lock_table(Io& io) {
  return wait_for_lock(io, kLockTable, true, kTablePatienceMs, "the inventory");
}

Result<std::unique_ptr<Lock>> lock_store_shared(Io& io) {
  auto lock = [&]() -> Result<std::unique_ptr<Lock>> {
    VARVE_TRY_ASSIGN(const std::unique_ptr<Lock> gate,
                     wait_for_lock(io, kLockGate, false, kStorePatienceMs, "the content"));
    return wait_for_lock(io, kLockStore, false, kStorePatienceMs, "the content");
  }();
  if (lock) return lock;
  const int reason = lock.error().os_errno();
  if (reason == EROFS || reason == EACCES || reason == EPERM) return std::unique_ptr<Lock>();
  return lock;
}

Result<std::unique_ptr<Lock>> lock_store_exclusive(Io& io, unsigned patience_ms) {
  const std::uint64_t begin = monotonic_ns();
  for (;;) {
    {
      // While the gate is ours nobody new comes in. Another collector may have it: then this turn is theirs.
      auto gate = io.lock(kLockGate, true);
      if (!gate && gate.error().code() != ErrorCode::busy) return gate.error();
      auto lock = wait_for_lock(io, kLockStore, true, std::min(patience_ms, kGateClosedMs), "the content");
      if (lock || lock.error().code() != ErrorCode::busy) return lock;
    }
    if (monotonic_ns() - begin >= std::uint64_t{patience_ms} * 1'000'000)
      return fail(ErrorCode::busy,
                  {fmt::format("removing garbage from store {} was put off", io.directory()),
                   fmt::format("others read or write it, and have not paused within {} ms", patience_ms),
                   "collect again when long restores, exports or verifications have ended"});
    const timespec open{0, kGateOpenNs};
    nanosleep(&open, nullptr);
  }
}

std::string encode_lock_line(const LockHolder& holder) {
  std::string line = fmt::format("{}pid={} host={} since={} chain={}", kLinePrefix, holder.pid, holder.host,
                                 holder.since, holder.chain);
  line.resize(kLockLineBytes - 1, ' ');
  line += '\n';
  return line;
}

std::vector<LockHolder> decode_lock_lines(std::string_view content) {
  std::vector<LockHolder> holders;
  for (; content.size() >= kLockLineBytes; content.remove_prefix(kLockLineBytes)) {
    const std::string_view line = content.substr(0, kLockLineBytes - 1);
    LockHolder holder;
    holder.host = field(line, " host=");
    holder.chain = field(line, " chain=");
    const bool well_formed = line.starts_with(kLinePrefix) && number(field(line, " pid="), holder.pid) &&
                             number(field(line, " since="), holder.since) && !holder.chain.empty();
    if (well_formed) holders.push_back(std::move(holder));
  }
  return holders;
}

ChainLock::ChainLock(Io& io, std::string chain, std::unique_ptr<Lock> lock)
    : io_(io), chain_(std::move(chain)), lock_(std::move(lock)) {}

Result<std::unique_ptr<ChainLock>> ChainLock::acquire(Io& io, std::string_view chain) {
  VARVE_TRY_ASSIGN(const std::unique_ptr<Lock> table, lock_table(io));
  auto lock = io.lock(chain_lock_byte(chain), true);
  if (!lock) {
    if (lock.error().code() == ErrorCode::busy) return chain_is_busy(io, chain);
    return lock.error();
  }
  LockHolder holder{static_cast<std::uint64_t>(getpid()), host_name(), wall_clock_ns() / 1'000'000'000,
                    std::string(chain)};
  if (auto written = rewrite_lines(io, chain, holder); !written)  // the lock holds without its line
    log::info("storage", "the holder's line could not be written: {}", written.error().message());
  return std::unique_ptr<ChainLock>(new ChainLock(io, std::string(chain), std::move(*lock)));
}

ChainLock::~ChainLock() {
  auto table = lock_table(io_);
  if (table)
    if (auto written = rewrite_lines(io_, chain_, std::nullopt); !written)
      log::info("storage", "the holder's line could not be removed: {}", written.error().message());
  lock_.reset();  // before the table's
}

}  // namespace varve::storage

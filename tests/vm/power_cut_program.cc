// SPDX-License-Identifier: Apache-2.0
//
// Both sides of a power cut. `write` fills a store by two writers of two chains that share chunks, each with a Store of
// its own, as two processes would, and prints a line for each thing that is durable from then on. `check` takes what a
// cut left, and the lines that were printed before it:
//   - every image printed as durable is listed (unless it was being retired), no retired one is, labels are right;
//   - every listed image restores to what its number says, bit for bit;
//   - varve verify --deep finds no damage (an unfinished tail is none), and the chains can be written on.
// The content of an image follows from seed, chain and number alone, so that the check needs no other record.
//
// usage: power_cut_program write STORE SEED IMAGES uring|posix direct|buffered
//        power_cut_program check STORE SEED SAID
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "base/try.h"
#include "storage/store.h"
#include "storage/verify.h"
#include "tests/support/random.h"
#include "tests/support/store_shadow.h"

namespace varve::storage {
namespace {

using test::Random;
using test::ShadowMemory;

constexpr std::size_t kPage = 4096;
constexpr std::array<const char*, 2> kChains = {"main", "other"};

/// Each fifth image is a branch of its own, which nothing builds on: it is retired later.
bool is_branch(std::uint64_t number) { return number % 5 == 4; }
std::uint64_t parent_of(std::uint64_t number) { return number < 2 ? 0 : number - (is_branch(number - 1) ? 2 : 1); }

/// The images of a chain, made in order.
class Contents {
 public:
  Contents(std::uint64_t seed, std::size_t chain) : seed_(2 * seed + chain) {
    ShadowMemory& first = made_.emplace_back();
    first["grid"] = {test::random_bytes(48 * kPage, seed), 0, 8};
    first["small"] = {test::random_bytes(100, seed), 77, 0};
  }

  const ShadowMemory& of(std::uint64_t number) {
    while (made_.size() <= number) {
      const std::uint64_t next = made_.size();
      ShadowMemory memory = made_[parent_of(next)];
      Random random(seed_ * 1000 + next);
      auto& grid = memory["grid"].content;
      for (std::uint64_t i = 1 + random.below(12); i > 0; --i) {
        // Few different contents, so that the chains share chunks.
        const auto page =
            random.one_in(6) ? std::vector<std::byte>(kPage) : test::random_bytes(kPage, random.below(24));
        std::ranges::copy(page, grid.begin() + static_cast<std::ptrdiff_t>(kPage * random.below(48)));
      }
      memory["small"].content = test::random_bytes(100, random.next());
      made_.push_back(std::move(memory));
    }
    return made_[static_cast<std::size_t>(number)];
  }

 private:
  std::uint64_t seed_;
  std::deque<ShadowMemory> made_;  // by number; references stay good
};

/// In one write(2), so that lines of two threads stay whole.
void say(const std::string& line) {
  const std::string text = line + "\n";
  if (write(STDOUT_FILENO, text.data(), text.size()) != static_cast<ssize_t>(text.size())) std::abort();
}

Status write_one(Store& store, ChainWriter& writer, const std::string& chain, std::uint64_t number,
                 Contents& contents) {
  const std::uint64_t parent = parent_of(number);
  VARVE_TRY(test::checkpoint(store, writer, chain, number, contents.of(number),
                             parent == 0 || number % 11 == 0 ? nullptr : &contents.of(parent), parent));
  say(fmt::format("durable {}/{}", chain, number));
  if (number % 3 == 0) {
    VARVE_TRY(writer.set_label(number, fmt::format("third-{}", number)));
    say(fmt::format("labelled {}/{}", chain, number));
  }
  if (number > 8 && is_branch(number - 3)) {
    const std::uint64_t branch = number - 3;
    say(fmt::format("retiring {}/{}", chain, branch));
    VARVE_TRY(writer.retire(std::span(&branch, 1)));
    say(fmt::format("retired {}/{}", chain, branch));
  }
  return {};
}

Status write_chain(const std::string& directory, const IoOptions& io_options, std::uint64_t seed, std::size_t index,
                   std::uint64_t images) {
  const std::string chain = kChains[index];
  Contents contents(seed, index);
  Random random(seed * 7 + index);
  VARVE_TRY_ASSIGN(auto io, open_io(directory, io_options));
  StoreOptions options;
  options.segment_bytes = kPage * (16 + random.below(200));
  options.preallocate_bytes = random.coin() ? 0 : std::uint64_t{1} << 20;
  VARVE_TRY_ASSIGN(const std::unique_ptr<Store> store, Store::open(std::move(io), options));
  std::unique_ptr<ChainWriter> writer;
  for (std::uint64_t number = 1; number <= images; ++number) {
    if (writer == nullptr) {
      VARVE_TRY_ASSIGN(writer, store->open_chain(chain));
      if (writer->next_number() != number) std::abort();
    }
    VARVE_TRY(write_one(*store, *writer, chain, number, contents));
    if (number % 7 == 0) {
      VARVE_TRY(writer->close());
      writer.reset();
    }
  }
  return writer == nullptr ? Status() : writer->close();
}

int write_all(const std::string& directory, std::uint64_t seed, std::uint64_t images, const IoOptions& options) {
  std::array<std::thread, kChains.size()> threads;
  std::array<int, kChains.size()> failed{};
  for (std::size_t i = 0; i < threads.size(); ++i)
    threads[i] = std::thread([&, i] {
      const Status done = write_chain(directory, options, seed, i, images);
      if (done) return;
      std::fprintf(stderr, "%s\n", done.error().message().c_str());
      failed[i] = 1;
    });
  for (std::thread& thread : threads) thread.join();
  return failed[0] | failed[1];
}

/// What was printed before the cut, of one chain.
struct Said {
  std::set<std::uint64_t> durable, labelled, retiring, retired;
};

Said read_said(const std::string& file, const std::string& chain) {
  Said said;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (in.eof()) break;  // not a whole line: not said yet
    const std::size_t space = line.find(' ');
    const std::size_t slash = line.find('/');
    if (space == std::string::npos || slash == std::string::npos || line.substr(space + 1, slash - space - 1) != chain)
      continue;
    const std::uint64_t number = std::strtoull(line.c_str() + slash + 1, nullptr, 10);
    const std::string word = line.substr(0, space);
    if (word == "durable") said.durable.insert(number);
    if (word == "labelled") said.labelled.insert(number);
    if (word == "retiring") said.retiring.insert(number);
    if (word == "retired") said.retired.insert(number);
  }
  return said;
}

class Check {
 public:
  Check(std::string directory, std::uint64_t seed, std::string said)
      : directory_(std::move(directory)), seed_(seed), said_(std::move(said)) {}

  bool passed() {
    check_verify("after the cut");
    if (store_exists_) {
      for (std::size_t i = 0; i < kChains.size(); ++i) check_chain(i);
      for (std::size_t i = 0; i < kChains.size(); ++i) write_on(i);
      check_verify("written on");
    }
    std::printf("%zu images said durable, %zu restored\n", said_durable_, restored_);
    return !failed_;
  }

 private:
  void failed(const std::string& what) {
    std::printf("%s\n", what.c_str());
    failed_ = true;
  }
  Result<std::unique_ptr<Io>> open() {
    IoOptions options;
    options.create = false;
    return open_io(directory_, options);
  }

  void check_verify(std::string_view when) {
    auto io = open();
    auto report = io ? verify(**io, {.deep = true}) : Result<VerifyReport>(io.error());
    store_exists_ = report.has_value();
    if (report && report->status != VerifyStatus::damage) return;
    if (report) {
      for (const VerifyFinding& one : report->findings)
        failed(fmt::format("{}: {} at {}: {}", when, one.file, one.offset, one.what));
      return;
    }
    bool said = false;
    for (const char* chain : kChains) said = said || !read_said(said_, chain).durable.empty();
    if (said || report.error().code() != ErrorCode::not_found) failed(report.error().message());
  }

  void check_chain(std::size_t index) {
    const std::string chain = kChains[index];
    const Said said = read_said(said_, chain);
    said_durable_ += said.durable.size();
    auto io = open();
    if (!io) return failed(io.error().message());
    auto store = Store::open(std::move(*io), {.create = false});
    if (!store) return failed(store.error().message());
    for (const std::string& damage : (*store)->damage()) failed(damage);
    Contents contents(seed_, index);
    std::map<std::uint64_t, ImageSummary> listed;
    for (ImageSummary& line : (*store)->images())
      if (line.chain == chain) listed.emplace(line.number, std::move(line));
    for (const auto& [number, line] : listed) {
      auto memory = test::restore(**store, chain, number);
      if (!memory) failed(memory.error().message());
      if (memory && *memory != contents.of(number)) failed(fmt::format("{}/{} holds other bytes", chain, number));
      if (said.retired.contains(number)) failed(fmt::format("{}/{} was retired", chain, number));
      if (said.labelled.contains(number) && line.label != fmt::format("third-{}", number))
        failed(fmt::format("{}/{} lost its label", chain, number));
      ++restored_;
    }
    for (const std::uint64_t number : said.durable)
      if (!listed.contains(number) && !said.retiring.contains(number))
        failed(fmt::format("{}/{} was durable and is gone", chain, number));
  }

  void write_on(std::size_t index) {
    const std::string chain = kChains[index];
    const auto written = [&]() -> Status {
      VARVE_TRY_ASSIGN(auto io, open());
      VARVE_TRY_ASSIGN(const auto store, Store::open(std::move(io), {.create = false}));
      VARVE_TRY_ASSIGN(const auto writer, store->open_chain(chain));
      Contents contents(seed_ + 1, index);
      const std::uint64_t number = writer->next_number();
      VARVE_TRY(test::checkpoint(*store, *writer, chain, number, contents.of(1), nullptr, 0));
      VARVE_TRY_ASSIGN(const ShadowMemory memory, test::restore(*store, chain, number));
      if (memory != contents.of(1)) failed("an image written after the cut holds other bytes");
      return writer->close();
    }();
    if (!written) failed(written.error().message());
  }

  std::string directory_;
  std::uint64_t seed_;
  std::string said_;
  bool failed_ = false;
  bool store_exists_ = false;
  std::size_t said_durable_ = 0;
  std::size_t restored_ = 0;
};

int run(const std::vector<std::string>& arguments) {
  const auto number = [&](std::size_t at) { return std::strtoull(arguments[at].c_str(), nullptr, 10); };
  if (arguments.size() == 6 && arguments[0] == "write") {
    IoOptions options;
    options.kind = parse_io(arguments[4]);
    options.allow_direct = arguments[5] == "direct";
    return write_all(arguments[1], number(2), number(3), options);
  }
  if (arguments.size() == 4 && arguments[0] == "check")
    return Check(arguments[1], number(2), arguments[3]).passed() ? 0 : 1;
  std::fputs(
      "usage: power_cut_program write STORE SEED IMAGES uring|posix direct|buffered\n"
      "       power_cut_program check STORE SEED SAID\n",
      stderr);
  return 2;
}

}  // namespace
}  // namespace varve::storage

int main(int count, char** values) { return varve::storage::run({values + 1, values + count}); }

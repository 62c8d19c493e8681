// SPDX-License-Identifier: Apache-2.0
//
// ckpt-bench scale: how long a large store takes to open, after a clean close and after its writer was killed, and what
// its index takes of memory.
//
//     images 1 ... N, clean close   -> open: footers only
//     a child goes on and is killed, with few images behind the close, then with more: the open tail
//                                   -> open by a reader, which reads the tail; then by a writer, which seals it
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <functional>
#include <memory>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/os_error.h"
#include "base/try.h"
#include "storage/store.h"
#include "tools/ckpt_bench/commands.h"
#include "tools/ckpt_bench/samples.h"
#include "tools/ckpt_bench/setup.h"
#include "tools/ckpt_bench/yardstick.h"
#include "tools/table.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

struct ScaleOptions {
  BenchSetup setup;
  WorkloadShape shape{.bytes = std::uint64_t{32} << 20, .dirty = 0.08, .pattern = Pattern::contiguous};
  unsigned images = 50;
  std::vector<unsigned> tails = {1, 4, 16};
  unsigned repetitions = 5;
};

struct ScaleRow {
  unsigned tail_images = 0;      ///< behind the last clean close
  std::uint64_t tail_bytes = 0;  ///< that they took
  Samples open;                  ///< by a reader
  Samples open_to_write;         ///< and by its chain's writer
};

struct Scale {
  std::uint64_t images = 0;
  std::uint64_t store_bytes = 0;
  storage::StoreStatistics statistics;
  std::vector<ScaleRow> rows;

  double index_bytes_per_chunk() const {
    return statistics.indexed_chunks == 0
               ? 0
               : static_cast<double>(statistics.index_bytes) / static_cast<double>(statistics.indexed_chunks);
  }
};

std::uint64_t new_bytes(const WorkloadShape& shape) {
  return static_cast<std::uint64_t>(shape.dirty * static_cast<double>(shape.bytes));
}

class Measurement {
 public:
  Measurement(const ScaleOptions& options, Scratch& scratch) : options_(options), scratch_(scratch) {}

  Result<Scale> run() {
    VARVE_TRY(in_child([this] { return write_images(); }, false));
    expected_images_ = options_.images;
    scale_.store_bytes = scratch_.store_bytes();
    ScaleRow clean;
    for (unsigned i = 0; i < options_.repetitions; ++i) {
      VARVE_TRY(open_to_read(clean, 0));
      VARVE_TRY(open_to_write(clean));
    }
    scale_.rows.push_back(std::move(clean));
    for (const unsigned tail : options_.tails) VARVE_TRY(measure_tail(tail));
    return std::move(scale_);
  }

 private:
  Result<Engine> open_engine() {
    return Engine::open(engine_options(options_.setup, options_.setup.back_ends, scratch_.store()));
  }

  // To what no other image has.
  void change_pages(const Mapping& memory, PageSequence& pages, std::uint64_t image) {
    for (const std::uint32_t page : pages.next()) {
      const auto piece = page_of(memory.bytes(), page);
      change(piece, options_.shape.data, image, static_cast<std::uint64_t>(piece.data() - memory.bytes().data()));
    }
  }

  // A process tracks memory or is forked by one that does: so whatever has an engine is a child of its own.
  Status in_child(const std::function<Status()>& work, bool killed) {
    const pid_t child = fork();
    if (child < 0) return os_error("fork of the benchmark's writer failed", errno);
    if (child == 0) {
      const Status done = work();
      _exit(done ? static_cast<int>(kGood) : report("ckpt-bench scale", done.error()));
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
      if (errno != EINTR) return os_error("wait for the benchmark's writer failed", errno);
    const bool as_meant = killed ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL : status == 0;
    if (as_meant) return {};
    return fail(ErrorCode::io, {"benchmark ended early", fmt::format("its writer ended with status {:#x}", status),
                                "see the message above"});
  }

  Status write_images() {
    Progress progress("ckpt-bench scale", options_.setup.common.show_progress());
    VARVE_TRY_ASSIGN(const Mapping memory, Mapping::create({.bytes = options_.shape.bytes}));
    fill(memory.bytes(), options_.shape.data, 1);
    VARVE_TRY_ASSIGN(auto engine, open_engine());
    VARVE_TRY(engine.protect("memory", memory.bytes().data(), memory.bytes().size()));
    PageSequence pages(options_.shape);
    for (unsigned i = 0; i < options_.images; ++i) {
      VARVE_TRY(check_interrupted());
      progress.update(i, options_.images, "images");
      if (i > 0) change_pages(memory, pages, i + 1);
      VARVE_TRY(engine.checkpoint());
    }
    return engine.close();
  }

  // What a program that goes on and is killed leaves.
  Status go_on_and_die(unsigned images) {
    VARVE_TRY_ASSIGN(const Mapping memory, Mapping::create({.bytes = options_.shape.bytes}));
    VARVE_TRY_ASSIGN(auto engine, open_engine());
    VARVE_TRY(engine.protect("memory", memory.bytes().data(), memory.bytes().size()));
    VARVE_TRY(engine.restore("latest"));
    PageSequence pages(options_.shape);
    for (unsigned i = 0; i < images; ++i) {
      change_pages(memory, pages, expected_images_ + i + 1);
      CheckpointOptions sync;
      sync.sync = true;
      VARVE_TRY(engine.checkpoint(sync));
    }
    kill(getpid(), SIGKILL);  // the engine is open
    return engine.close();
  }

  Status measure_tail(unsigned tail) {
    ScaleRow row;
    row.tail_images = tail;
    VARVE_TRY(in_child([this, tail] { return go_on_and_die(tail); }, true));
    expected_images_ += tail;
    for (unsigned i = 0; i < options_.repetitions; ++i) VARVE_TRY(open_to_read(row, tail));
    VARVE_TRY(open_to_write(row));  // once: it seals the tail
    scale_.rows.push_back(std::move(row));
    return {};
  }

  void drop_cached_segments() {
    for (const auto& segment : scratch_.segments()) drop_cached(segment);
  }

  Status open_to_read(ScaleRow& row, unsigned tail) {
    VARVE_TRY(check_interrupted());
    drop_cached_segments();
    const std::uint64_t begin_ns = monotonic_ns();
    VARVE_TRY_ASSIGN(const auto store, open_store({.directory = scratch_.store()}));
    row.open.add(monotonic_ns() - begin_ns);
    scale_.statistics = store->statistics();
    const auto images = store->images();
    if (images.size() != expected_images_)
      return fail(ErrorCode::corruption, {"look at the benchmark's store",
                                          fmt::format("it lists {} images of {}", images.size(), expected_images_),
                                          "this is a bug in Varve: keep the store (--keep) and report it"});
    scale_.images = images.size();
    row.tail_bytes = 0;
    for (std::size_t i = images.size() - tail; i < images.size(); ++i) row.tail_bytes += images[i].written_bytes;
    return {};
  }

  Status open_to_write(ScaleRow& row) {
    drop_cached_segments();
    const std::uint64_t begin_ns = monotonic_ns();
    VARVE_TRY_ASSIGN(const auto store, open_store({.directory = scratch_.store()}));
    VARVE_TRY_ASSIGN(const auto writer, store->open_chain(Options().chain));
    row.open_to_write.add(monotonic_ns() - begin_ns);
    return writer->close();
  }

  const ScaleOptions& options_;
  Scratch& scratch_;
  Scale scale_;
  std::uint64_t expected_images_ = 0;
};

std::string row_name(const ScaleRow& row) {
  return row.tail_images == 0 ? "a clean close" : fmt::format("{} images and SIGKILL", row.tail_images);
}

nlohmann::json as_json(const Scale& scale, const ScaleOptions& options) {
  auto rows = nlohmann::json::array();
  for (const ScaleRow& row : scale.rows)
    rows.push_back(
        {{"workload", fmt::format("{}, {} images, after {}", describe(options.shape), options.images, row_name(row))},
         {"tail_images", row.tail_images},
         {"tail_bytes", row.tail_bytes},
         {"open_ns", row.open.json()},
         {"open_to_write_ns", row.open_to_write.json()}});
  return rows;
}

std::string as_text(const Scale& scale, const ScaleOptions& options) {
  using Align = Table::Align;
  Table table({{"OPEN AFTER"}, {"OPEN TAIL", Align::right}, {"TO READ", Align::right}, {"TO WRITE", Align::right}});
  for (const ScaleRow& row : scale.rows)
    table.add({row_name(row), format_bytes(row.tail_bytes), row.open.text_ns(), row.open_to_write.text_ns()});
  return fmt::format("{} in {} images, {} segments; index: {} chunks, {}, {:.1f} bytes a chunk\n{}",
                     format_bytes(scale.store_bytes), format_count(options.images), scale.statistics.segments,
                     format_count(scale.statistics.indexed_chunks), format_bytes(scale.statistics.index_bytes),
                     scale.index_bytes_per_chunk(), table.text());
}

Result<Scale> measure(const ScaleOptions& options) {
  std::uint64_t images = options.images;
  for (const unsigned tail : options.tails) images += tail;
  const std::uint64_t needed = full_image_bytes(options.shape.bytes + images * new_bytes(options.shape));
  VARVE_TRY_ASSIGN(auto scratch, scratch_for(options.setup, {.store_bytes = needed}));
  return Measurement(options, scratch).run();
}

int run_scale(const ScaleOptions& options) {
  auto header = header_json(options.setup, "scale");
  const auto scale = measure(options);
  if (!scale) return report("ckpt-bench scale", scale.error());
  header["images"] = options.images;
  header["store_bytes"] = scale->store_bytes;
  header["segments"] = scale->statistics.segments;
  header["indexed_chunks"] = scale->statistics.indexed_chunks;
  header["index_bytes"] = scale->statistics.index_bytes;
  header["index_bytes_per_chunk"] = scale->index_bytes_per_chunk();
  return print_rows(options.setup, "scale", std::move(header), as_json(*scale, options), nlohmann::json::array(),
                    as_text(*scale, options));
}

}  // namespace

BenchCommand add_scale(CLI::App& parent) {
  auto options = std::make_shared<ScaleOptions>();
  auto* app = parent.add_subcommand("scale",
                                    "Measure opening a store of many images, from the disk (not its cache): after a\n"
                                    "clean close, and after its writer was killed with some images behind that; and\n"
                                    "the memory of its index. The store takes --size and --images times the share\n"
                                    "that is dirty.");
  add_size(*app, "--size", options->shape.bytes, "of the protected memory");
  add_fraction(*app, "--dirty", options->shape.dirty, "share of the pages that each image has anew");
  app->add_option("--images", options->images, "before the clean close")
      ->check(CLI::Range(1u, 10'000'000u))
      ->capture_default_str();
  app->add_option("--tails", options->tails, "images behind a clean close when the writer is killed, with commas")
      ->delimiter(',')
      ->check(CLI::Range(1u, 100'000u))
      ->capture_default_str();
  add_data(*app, options->shape.data);
  app->add_option("--repetitions", options->repetitions, "of each opening, but of the writer's after a kill")
      ->check(CLI::Range(1u, 10'000u))
      ->capture_default_str();
  add_back_ends(*app, options->setup.back_ends);
  add_setup(*app, options->setup);
  add_footer(*app,
             "  ckpt-bench scale --store /scratch/bench\n"
             "  ckpt-bench scale --size 256MiB --dirty 8% --images 1000 --store /scratch/bench --json    # 20 GiB\n");
  return {app, [options](const std::string& command_line) {
            options->setup.command_line = command_line;
            return run_scale(*options);
          }};
}

}  // namespace varve::tools

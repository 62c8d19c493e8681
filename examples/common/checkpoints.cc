// SPDX-License-Identifier: Apache-2.0
#include "common/checkpoints.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace example {
namespace {

using ull = unsigned long long;  // what printf's %llu takes

std::uint64_t now_ns() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(since).count());
}

const char* kind_name(varve::ImageKind kind) { return kind == varve::ImageKind::full ? "full" : "delta"; }

struct Summary {
  std::uint64_t full = 0, delta = 0, skipped = 0;
  std::uint64_t full_bytes = 0, delta_bytes = 0;
  std::uint64_t protected_bytes = 0;
  std::uint64_t stall_median_ns = 0, stall_max_ns = 0;
  std::uint64_t durable_median_ns = 0;
};

std::uint64_t median(std::vector<std::uint64_t> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Summary summarise(const std::vector<varve::ImageResult>& images) {
  Summary sum;
  std::vector<std::uint64_t> stalls, durable;
  for (const auto& image : images) {
    if (image.skipped) {
      ++sum.skipped;
      continue;
    }
    const bool full = image.kind == varve::ImageKind::full;
    (full ? sum.full : sum.delta) += 1;
    (full ? sum.full_bytes : sum.delta_bytes) += image.written_bytes;
    sum.protected_bytes = image.protected_bytes;
    stalls.push_back(image.stall_ns);
    durable.push_back(image.durable_ns);
    sum.stall_max_ns = std::max(sum.stall_max_ns, image.stall_ns);
  }
  sum.stall_median_ns = median(std::move(stalls));
  sum.durable_median_ns = median(std::move(durable));
  return sum;
}

double mebibytes(std::uint64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }
double milliseconds(std::uint64_t ns) { return static_cast<double>(ns) / 1e6; }

}  // namespace

varve::Result<std::unique_ptr<Checkpoints>> Checkpoints::open(const Arguments& arguments) {
  std::unique_ptr<Checkpoints> checkpoints(new Checkpoints(arguments));
  if (!arguments.stats.empty()) {
    checkpoints->stats_.reset(std::fopen(arguments.stats.c_str(), "we"));
    if (!checkpoints->stats_)
      return varve::fail(varve::ErrorCode::io,
                         {"open of " + arguments.stats + " failed", std::strerror(errno), "check the path"}, errno);
  }
  if (arguments.store.empty()) return checkpoints;

  varve::Options options;
  options.store = arguments.store;
  options.chain = arguments.chain;
  auto engine = varve::Engine::open(options);
  if (!engine) return engine.error();
  checkpoints->engine_.emplace(std::move(engine).value());
  varve::Hooks hooks;
  hooks.after_restore = [self = checkpoints.get()](const varve::ImageInfo& image) {
    self->resumed_image_ = image.image;
  };
  checkpoints->engine_->set_hooks(std::move(hooks));
  return checkpoints;
}

varve::Status Checkpoints::protect(const char* name, void* address, std::size_t bytes, std::uint32_t element_bytes) {
  if (!engine_) return {};
  varve::RegionOptions options;
  options.element_bytes = element_bytes;
  return engine_->protect(name, address, bytes, options);
}

varve::Status Checkpoints::resume(const std::uint64_t& step) {
  if (!engine_) return {};
  std::vector<varve::SkippedImage> skipped;
  varve::RestoreOptions options;
  options.fallback = arguments_.fallback;
  options.skipped = &skipped;
  auto resumed = engine_->restore_if_any(options);
  if (!resumed) return resumed.error();
  for (const auto& image : skipped)
    std::printf("passed over image %s: %s\n", image.image.empty() ? "?" : image.image.c_str(), image.reason.c_str());
  if (*resumed) {
    std::printf("resumed from image %llu at step %llu\n", static_cast<ull>(resumed_image_), static_cast<ull>(step));
    std::fflush(stdout);
    newest_durable_ = resumed_image_;
  }
  choices_ = engine_->choices();
  return {};
}

varve::Status Checkpoints::step_done(std::uint64_t step) {
  if (!engine_) return {};
  while (!in_flight_.empty() && in_flight_.front().ticket.ready()) {
    collect(in_flight_.front());
    in_flight_.pop_front();
  }
  if (arguments_.every == 0 || step % arguments_.every != 0) return {};

  auto ticket = engine_->checkpoint();
  if (!ticket) return ticket.error();
  std::printf("checkpoint %llu step %llu\n", static_cast<ull>(ticket->image()), static_cast<ull>(step));
  std::fflush(stdout);
  in_flight_.push_back({std::move(ticket).value(), step});
  return {};
}

void Checkpoints::collect(const Pending& pending) {
  auto result = pending.ticket.wait();
  if (!result) {
    // The program's own work is not in danger: the pages of this image are in the next one.
    std::fprintf(stderr, "image %llu was lost: %s (going on)\n", static_cast<ull>(pending.ticket.image()),
                 result.error().message().c_str());
    ++failed_;
    return;
  }
  images_.push_back(*result);
  write_image_line(*result, pending.step);
  if (result->skipped) return;
  newest_durable_ = result->image;
  std::printf("%s %llu step %llu\n", result->durable ? "durable" : "written", static_cast<ull>(result->image),
              static_cast<ull>(pending.step));
  std::fflush(stdout);
}

void Checkpoints::write_image_line(const varve::ImageResult& image, std::uint64_t step) {
  if (!stats_) return;
  std::fprintf(stats_.get(),
               "image=%llu kind=%s step=%llu stall_ns=%llu scan_ns=%llu capture_ns=%llu durable_ns=%llu "
               "suspect_pages=%llu changed_chunks=%llu zero_chunks=%llu deduplicated_chunks=%llu new_chunks=%llu "
               "raw_bytes=%llu written_bytes=%llu protected_bytes=%llu capture=%s\n",
               static_cast<ull>(image.image), kind_name(image.kind), static_cast<ull>(step),
               static_cast<ull>(image.stall_ns), static_cast<ull>(image.scan_ns), static_cast<ull>(image.capture_ns),
               static_cast<ull>(image.durable_ns), static_cast<ull>(image.suspect_pages),
               static_cast<ull>(image.changed_chunks), static_cast<ull>(image.zero_chunks),
               static_cast<ull>(image.deduplicated_chunks), static_cast<ull>(image.new_chunks),
               static_cast<ull>(image.raw_bytes), static_cast<ull>(image.written_bytes),
               static_cast<ull>(image.protected_bytes), image.capture == varve::Capture::fork ? "fork" : "copy");
  std::fflush(stats_.get());  // a killed run leaves its lines behind
}

varve::Status Checkpoints::finish() {
  if (!engine_) return {};
  choices_ = engine_->choices();
  for (; !in_flight_.empty(); in_flight_.pop_front()) collect(in_flight_.front());
  return engine_->close();
}

varve::Status Checkpoints::report(std::uint64_t state_write_ns) {
  if (engine_) {
    const Summary sum = summarise(images_);
    const std::uint64_t images = sum.full + sum.delta;
    const std::uint64_t written = sum.full_bytes + sum.delta_bytes;
    const std::uint64_t mean_full = sum.full == 0 ? 0 : sum.full_bytes / sum.full;
    const std::uint64_t mean_delta = sum.delta == 0 ? 0 : sum.delta_bytes / sum.delta;
    std::printf(
        "images: %llu full of %.2f MiB, %llu delta of %.2f MiB, %llu failed; stall median %.2f ms, max %.2f ms; "
        "%.2f MiB written, %.2f MiB if every image held everything; tracker %s; capture %s; io %s\n",
        static_cast<ull>(sum.full), mebibytes(mean_full), static_cast<ull>(sum.delta), mebibytes(mean_delta),
        static_cast<ull>(failed_), milliseconds(sum.stall_median_ns), milliseconds(sum.stall_max_ns),
        mebibytes(written), mebibytes(sum.protected_bytes * images), choices_.tracker.c_str(), choices_.capture.c_str(),
        choices_.io.c_str());
    if (stats_)
      std::fprintf(stats_.get(),
                   "images=%llu\nfull_images=%llu\ndelta_images=%llu\nskipped=%llu\nfailed=%llu\n"
                   "full_bytes=%llu\ndelta_bytes=%llu\nwritten_bytes=%llu\nprotected_bytes=%llu\n"
                   "bytes_if_all_held_everything=%llu\nstall_median_ns=%llu\nstall_max_ns=%llu\n"
                   "durable_median_ns=%llu\ntracker=%s\ncapture=%s\nio=%s\nfile_system=%s\n",
                   static_cast<ull>(images), static_cast<ull>(sum.full), static_cast<ull>(sum.delta),
                   static_cast<ull>(sum.skipped), static_cast<ull>(failed_), static_cast<ull>(sum.full_bytes),
                   static_cast<ull>(sum.delta_bytes), static_cast<ull>(written), static_cast<ull>(sum.protected_bytes),
                   static_cast<ull>(sum.protected_bytes * images), static_cast<ull>(sum.stall_median_ns),
                   static_cast<ull>(sum.stall_max_ns), static_cast<ull>(sum.durable_median_ns),
                   choices_.tracker.c_str(), choices_.capture.c_str(), choices_.io.c_str(),
                   choices_.file_system.c_str());
  }
  if (!stats_) return {};
  if (state_write_ns != 0) std::fprintf(stats_.get(), "state_write_ns=%llu\n", static_cast<ull>(state_write_ns));
  if (std::fflush(stats_.get()) != 0 || std::ferror(stats_.get()) != 0)
    return varve::fail(
        varve::ErrorCode::io,
        {"write of " + arguments_.stats + " failed", std::strerror(errno), "free space on its file system"}, errno);
  return {};
}

Progress::Progress(const Arguments& arguments, std::uint64_t first_step)
    : arguments_(arguments), terminal_(isatty(STDERR_FILENO) == 1), first_step_(first_step), begin_ns_(now_ns()) {}

void Progress::step_done(std::uint64_t step, std::uint64_t newest_durable) {
  if (arguments_.quiet) return;
  const std::uint64_t now = now_ns();
  if (now - last_ns_ < arguments_.progress_ms * 1'000'000 && step != arguments_.steps) return;
  last_ns_ = now;
  show(step, newest_durable, now);
}

void Progress::show(std::uint64_t step, std::uint64_t newest_durable, std::uint64_t now) {
  const double seconds = static_cast<double>(now - begin_ns_) / 1e9;
  const double rate = seconds > 0 ? static_cast<double>(step - first_step_) / seconds : 0;
  std::fprintf(stderr, "%sstep %llu of %llu, %.1f steps/s", terminal_ ? "\r" : "", static_cast<ull>(step),
               static_cast<ull>(arguments_.steps), rate);
  if (newest_durable != 0) std::fprintf(stderr, ", image %llu durable", static_cast<ull>(newest_durable));
  std::fputs(terminal_ ? "\x1b[K" : "\n", stderr);
  shown_ = true;
}

void Progress::end() {
  if (shown_ && terminal_) std::fputc('\n', stderr);
}

int failed(const std::string& program, const varve::Error& error) {
  std::fprintf(stderr, "%s: %s\n", program.c_str(), error.message().c_str());
  return 1;
}

}  // namespace example

// SPDX-License-Identifier: Apache-2.0
//
// varve verify: reads every byte of a store, says what is damaged and which images are still good.
#include "storage/verify.h"

#include <chrono>
#include <future>
#include <memory>

#include <fmt/format.h>

#include "base/try.h"
#include "storage/format.h"
#include "tools/units.h"
#include "tools/varve/commands.h"
#include "tools/varve/image_json.h"

namespace varve::tools {
namespace {

using storage::VerifyReport;
using storage::VerifyStatus;

struct VerifyCommandOptions {
  CommonOptions common;
  StoreArgument store;
  bool deep = false;
};

const char* status_name(VerifyStatus status) {
  switch (status) {
    case VerifyStatus::good: return "good";
    case VerifyStatus::unfinished: return "unfinished tail";
    case VerifyStatus::damage: return "damage";
  }
  return "unknown";
}

ExitCode exit_code(VerifyStatus status) {
  switch (status) {
    case VerifyStatus::good: return kGood;
    case VerifyStatus::unfinished: return kUnfinishedTail;
    case VerifyStatus::damage: return kFailure;
  }
  return kFailure;
}

// Before anything is locked, since that makes the lock file: a directory that is no store stays as it is. One that has
// lost some of its files is a damaged store.
Status check_for_store(storage::Io& io) {
  VARVE_TRY_ASSIGN(const auto names, io.list(""));
  for (const auto& name : names)
    if (name == storage::kStoreFile || name == storage::kInventoryFile || name == storage::kSegmentFolder) return {};
  return fail(ErrorCode::not_found, {"verification of " + io.directory() + " failed",
                                     "there is no store in this directory", "check the path"});
}

Result<VerifyReport> run_verification(const VerifyCommandOptions& options) {
  storage::IoOptions io_options;
  io_options.create = false;
  io_options.allow_foreign = options.store.allow_foreign;
  VARVE_TRY_ASSIGN(auto io, storage::open_io(options.store.directory, io_options));
  VARVE_TRY(check_for_store(*io));
  Progress progress("checking", options.common.show_progress());
  auto report =
      std::async(std::launch::async, [&io, &options] { return storage::verify(*io, {.deep = options.deep}); });
  while (report.wait_for(std::chrono::milliseconds(200)) != std::future_status::ready)
    progress.update(options.store.directory);
  return report.get();
}

nlohmann::json as_json(const VerifyReport& report) {
  auto json = nlohmann::json{{"status", status_name(report.status)},
                             {"findings", nlohmann::json::array()},
                             {"findings_left_out", report.findings_left_out},
                             {"unfinished", nlohmann::json::array()},
                             {"good", nlohmann::json::array()},
                             {"damaged", nlohmann::json::array()},
                             {"segments", report.segments},
                             {"records", report.records},
                             {"chunks", report.chunks},
                             {"bytes_read", report.bytes_read}};
  for (const auto& finding : report.findings)
    json["findings"].push_back({{"file", finding.file},
                                {"offset", finding.offset},
                                {"bytes", finding.bytes},
                                {"image", finding.image},
                                {"region", finding.region},
                                {"range", {{"offset", finding.range.offset}, {"bytes", finding.range.bytes}}},
                                {"what", finding.what}});
  for (const auto& tail : report.unfinished)
    json["unfinished"].push_back({{"file", tail.file}, {"offset", tail.offset}, {"bytes", tail.bytes}});
  for (const auto& image : report.good) json["good"].push_back(image_json(image));
  for (const auto& image : report.damaged) json["damaged"].push_back(image_json(image));
  return json;
}

std::string finding_text(const storage::VerifyFinding& finding) {
  std::string text = fmt::format("damage: {}", finding.file);
  if (finding.bytes != 0 || finding.offset != 0) text += fmt::format(" at offset {}", finding.offset);
  if (finding.bytes != 0) text += fmt::format(", {} bytes", format_count(finding.bytes));
  if (!finding.image.empty()) text += fmt::format(", image {}", finding.image);
  if (!finding.region.empty()) text += fmt::format(", region '{}'", finding.region);
  if (finding.range.bytes != 0)
    text += fmt::format(" bytes {} to {}", finding.range.offset, finding.range.offset + finding.range.bytes);
  return text + ": " + finding.what + "\n";
}

std::string image_list(const std::vector<storage::ImageSummary>& images) {
  constexpr std::size_t kShown = 20;
  std::string text;
  for (std::size_t i = 0; i < images.size() && i < kShown; ++i)
    text += fmt::format("{}{}/{}", i == 0 ? "" : ", ", images[i].chain, images[i].number);
  if (images.size() > kShown) text += fmt::format(" and {} more (--json has all)", images.size() - kShown);
  return text.empty() ? "none" : text;
}

// The last line stands for the whole.
std::string as_text(const VerifyReport& report) {
  std::string text;
  for (const auto& finding : report.findings) text += finding_text(finding);
  if (report.findings_left_out != 0) text += fmt::format("and {} more findings\n", report.findings_left_out);
  for (const auto& tail : report.unfinished)
    text += fmt::format("unfinished tail: {} at offset {}, {} bytes: an image that was being written is not there\n",
                        tail.file, tail.offset, format_count(tail.bytes));
  if (report.status == VerifyStatus::damage)
    text += fmt::format("damaged images: {}\ngood images: {}\n", image_list(report.damaged), image_list(report.good));
  return text + fmt::format("{}: {} good images, {} damaged, {} segments, {} records, {} chunks, {} read\n",
                            status_name(report.status), report.good.size(), report.damaged.size(), report.segments,
                            format_count(report.records), format_count(report.chunks), format_bytes(report.bytes_read));
}

int run_verify(const VerifyCommandOptions& options) {
  auto report = run_verification(options);
  if (!report) return tools::report("varve verify", report.error());
  const ExitCode code = exit_code(report->status);
  if (options.common.json) return print("varve verify", as_json(*report), code);
  return print("varve verify", as_text(*report), code);
}

}  // namespace

Command add_verify(CLI::App& parent) {
  auto options = std::make_shared<VerifyCommandOptions>();
  auto* app = parent.add_subcommand("verify",
                                    "Read every byte of a store and check it; name file, offset, image, region and\n"
                                    "range of what is damaged, and the images that are still good.");
  add_store(*app, options->store);
  app->add_flag("--deep", options->deep, "unpack everything, too, and compare every chunk with its name");
  add_common(*app, options->common);
  add_footer(*app,
             "  varve verify ckpt && echo all good\n"
             "  varve verify ckpt --deep --json | jq '.findings[].image'\n",
             "Exit codes: 0 good, 1 damage or failure, 2 usage, 3 unfinished tail: nothing is damaged, and an image\n"
             "that was being written when its writer ended (or is being written now) is not there.");
  return {app, [options] { return run_verify(*options); }};
}

}  // namespace varve::tools

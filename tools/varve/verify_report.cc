// SPDX-License-Identifier: Apache-2.0
#include "tools/varve/verify_report.h"

#include <chrono>
#include <future>

#include <fmt/format.h>

#include "base/try.h"
#include "storage/format.h"
#include "tools/units.h"
#include "tools/varve/image_json.h"

namespace varve::tools {
namespace {

using storage::VerifyReport;
using storage::VerifyStatus;

const char* status_name(VerifyStatus status) {
  switch (status) {
    case VerifyStatus::good: return "good";
    case VerifyStatus::unfinished: return "unfinished tail";
    case VerifyStatus::damage: return "damage";
    case VerifyStatus::interrupted: return "interrupted";
  }
  return "unknown";
}

ExitCode exit_code(VerifyStatus status) {
  switch (status) {
    case VerifyStatus::good: return kGood;
    case VerifyStatus::unfinished: return kUnfinishedTail;
    case VerifyStatus::damage: return kFailure;
    case VerifyStatus::interrupted: return kInterrupted;
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

nlohmann::json as_json(const VerifyReport& report) {
  auto json = nlohmann::json{{"status", status_name(report.status)},
                             {"interrupted", report.interrupted},
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
  if (report.interrupted) text += "interrupted: what was not read yet may be damaged\n";
  if (report.status == VerifyStatus::damage)
    text += fmt::format("damaged images: {}\ngood images: {}\n", image_list(report.damaged), image_list(report.good));
  return text + fmt::format("{}: {} good images, {} damaged, {} segments, {} records, {} chunks, {} read\n",
                            status_name(report.status), report.good.size(), report.damaged.size(), report.segments,
                            format_count(report.records), format_count(report.chunks), format_bytes(report.bytes_read));
}

}  // namespace

Result<VerifyReport> run_verification(const StoreArgument& store, const storage::VerifyOptions& options,
                                      const std::function<void()>& tick) {
  storage::IoOptions io_options;
  io_options.create = false;
  io_options.allow_foreign = store.allow_foreign;
  VARVE_TRY_ASSIGN(auto io, storage::open_io(store.directory, io_options));
  VARVE_TRY(check_for_store(*io));
  auto report = std::async(std::launch::async, [&io, &options] { return storage::verify(*io, options); });
  while (report.wait_for(std::chrono::milliseconds(100)) != std::future_status::ready) tick();
  return report.get();
}

int print_report(const char* command, const VerifyReport& report, bool json) {
  const ExitCode code = exit_code(report.status);
  return json ? print(command, as_json(report), code) : print(command, as_text(report), code);
}

}  // namespace varve::tools

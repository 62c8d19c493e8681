// SPDX-License-Identifier: Apache-2.0
//
// varve report: the history of a store, from its manifests, as tables, as JSON, and as one HTML file.
#include <memory>

#include "base/try.h"
#include "tools/report/survey.h"
#include "tools/report/survey_sections.h"
#include "tools/varve/commands.h"
#include "tools/varve/verify_report.h"

namespace varve::tools {
namespace {

constexpr const char* kCommand = "varve report";

struct ReportOptions {
  CommonOptions common;
  StoreArgument store;
  std::string html;
  bool verify = false;
};

Status find_damaged(const ReportOptions& options, SurveyOptions& survey) {
  Progress progress("checking", options.common.show_progress());
  VARVE_TRY_ASSIGN(const auto found,
                   run_verification(options.store, {}, [&] { progress.update(options.store.directory); }));
  for (const auto& image : found.damaged) survey.damaged.insert({image.chain, image.number});
  survey.verified = true;
  return {};
}

Result<StoreSurvey> survey(const ReportOptions& options) {
  if (!options.html.empty()) VARVE_TRY(check_report_path(options.html));
  SurveyOptions wanted;
  // Before the store is opened: a writer that goes on meanwhile adds images, and takes none away.
  if (options.verify) VARVE_TRY(find_damaged(options, wanted));
  VARVE_TRY_ASSIGN(auto store, open_store(options.store));
  Progress progress("reading", options.common.show_progress());
  wanted.progress = [&](std::uint64_t done, std::uint64_t total, const std::string& what) {
    progress.update(done, total, what);
  };
  return survey_store(*store, wanted);
}

int run_report(const ReportOptions& options) {
  const auto surveyed = survey(options);
  if (!surveyed) return report(kCommand, surveyed.error());
  const ExitCode damage = surveyed->damage.empty() ? kGood : kFailure;
  // Printed first: what was read is not lost with a page that can't be written.
  const int code =
      options.common.json ? print(kCommand, surveyed->json(), damage) : print(kCommand, survey_text(*surveyed), damage);
  if (!options.html.empty())
    if (auto ok = write_report(options.html, survey_report(*surveyed)); !ok) return report(kCommand, ok.error());
  return code;
}

}  // namespace

Command add_report(CLI::App& parent) {
  auto options = std::make_shared<ReportOptions>();
  auto* app = parent.add_subcommand(
      "report",
      "Tell the history of a store from its manifests, without reading page data: the images of each chain, what\n"
      "each changed, where, how much of that was known content or zeros, and how well each region packs. --html\n"
      "draws it: time line, heat map of regions by images, sizes, deduplication, compression, in one file that\n"
      "needs no network. Damaged images are shown as such.");
  add_store(*app, options->store);
  add_output(*app, "--html", options->html, "write the report there, too");
  app->add_flag("--verify", options->verify, "read and check everything first, so that damaged page data is known");
  add_common(*app, options->common);
  add_footer(*app,
             "  varve report ckpt --html ckpt.html\n"
             "  varve report ckpt --json | jq '.chains[0].regions[] | {name, new_bytes, stored_bytes}'\n");
  return {app, [options] { return run_report(*options); }};
}

}  // namespace varve::tools

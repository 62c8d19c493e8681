// SPDX-License-Identifier: Apache-2.0
//
// varve verify: reads every byte of a store, says what is damaged and which images are still good.
#include <memory>

#include "tools/varve/commands.h"
#include "tools/varve/verify_report.h"

namespace varve::tools {
namespace {

struct VerifyCommandOptions {
  CommonOptions common;
  StoreArgument store;
  bool deep = false;
};

int run_verify(const VerifyCommandOptions& options) {
  auto report = [&] {
    Progress progress("checking", options.common.show_progress());
    return run_verification(options.store, {.deep = options.deep}, [&] { progress.update(options.store.directory); });
  }();
  if (!report) return tools::report("varve verify", report.error());
  return print_report("varve verify", *report, options.common.json);
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

// SPDX-License-Identifier: Apache-2.0
//
// chain-compact: keeps a store small.
#include <csignal>
#include <limits>

#include "tools/chain_compact/compact_command.h"

namespace {

using namespace varve::tools;

int run(const CompactOptions& options) {
  auto result = compact_store(options);
  if (!result) return report("chain-compact", result.error());
  ExitCode code = kGood;
  if (result->put_off) code = static_cast<ExitCode>(report("chain-compact", *result->put_off));
  if (options.common.json) return print("chain-compact", as_json(*result, options.dry_run), code);
  return print("chain-compact", as_text(*result, options.dry_run), code);
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  const CLI::Range kCount(1U, std::numeric_limits<std::uint32_t>::max());
  CompactOptions options;
  CLI::App app(
      "Keeps a store of checkpoints small: makes an image of a chain full, drops images that are not to be kept, and\n"
      "gives back the space of what no image needs. Reads and writes no page data where that can be avoided. Works\n"
      "beside readers and writers of other chains; may be killed at any time.",
      "chain-compact");
  app.set_version_flag("--version", version_text("chain-compact"));
  add_store(app, options.store);
  app.add_option("CHAIN", options.chain, "chain to compact; may be left out where the store has only one, or 'main'");
  app.add_option("--image", options.image, "make this image full, by number or label; default: the newest");
  auto* keep = app.add_option("--keep", options.policy.keep, "drop all but the last N images, and those below")
                   ->type_name("N")
                   ->check(kCount);
  app.add_option("--keep-every", options.policy.keep_every, "keep one of every K images before those, too")
      ->type_name("K")
      ->check(kCount)
      ->needs(keep);
  add_fraction(app, "--spare", options.spare, "garbage that may stay, as a share of what is alive: less costs writing");
  app.add_flag("--dry-run", options.dry_run, "change nothing; say what would be done and freed, about");
  add_common(app, options.common);
  add_footer(app,
             "  chain-compact ckpt --keep 8 --dry-run    what would go\n"
             "  chain-compact ckpt --keep 8 --keep-every 100\n"
             "  chain-compact ckpt main --image 40       make image 40 full, drop nothing\n",
             "Images with a label or a pin, and the one that is made full, are never dropped. Chains that are being\n"
             "written are left alone; the chosen one is refused then, with the pid of its writer.\n"
             "Exit codes: 0 good, 1 failure (or readers left no moment to remove files: run it again), 2 usage.");
  return run_command_line(app, argc, argv, [&options] { return run(options); });
}

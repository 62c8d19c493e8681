// SPDX-License-Identifier: Apache-2.0
//
// varve: looks into stores and machines, and marks images.
#include <csignal>
#include <vector>

#include "tools/varve/commands.h"

int main(int argc, char** argv) {
  using namespace varve::tools;
  std::signal(SIGPIPE, SIG_IGN);  // a reader that went away is an error with a message, like every other
  CLI::App app(
      "Looks into Varve's stores of checkpoints, marks and removes images, and tells what this machine offers.",
      "varve");
  app.set_version_flag("--version", version_text("varve"));
  app.require_subcommand(1);
  add_footer(app,
             "  varve list ckpt                     all images of the store 'ckpt'\n"
             "  varve show ckpt latest              what the newest image holds\n"
             "  varve diff ckpt 7 latest            what differs between two images\n"
             "  varve report ckpt --html r.html     its history, drawn\n"
             "  varve verify ckpt                   read and check everything\n"
             "  varve export ckpt 7 grid > grid.raw the bytes of a region\n"
             "  varve doctor .                      what works here, and what would be chosen\n",
             "Exit codes: 0 good, 1 damage or failure, 2 usage, 3 unfinished tail (verify, scrub),\n"
             "4 interrupted (scrub).\n"
             "'varve COMMAND --help' tells more.");
  const std::vector<Command> commands = {add_list(app),   add_show(app),  add_diff(app),   add_report(app),
                                         add_verify(app), add_scrub(app), add_export(app), add_inspect(app),
                                         add_doctor(app), add_pin(app),   add_unpin(app),  add_label(app),
                                         add_rm(app)};
  return run_command_line(app, argc, argv, [&commands] {
    for (const auto& command : commands)
      if (command.app->parsed()) return command.run();
    return static_cast<int>(kUsage);
  });
}

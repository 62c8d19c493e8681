// SPDX-License-Identifier: Apache-2.0
//
// ckpt-bench: what checkpoints cost on this machine.
#include <csignal>
#include <vector>

#include "tools/ckpt_bench/commands.h"
#include "tools/ckpt_bench/setup.h"

int main(int argc, char** argv) {
  using namespace varve::tools;
  std::signal(SIGPIPE, SIG_IGN);
  CLI::App app("Measures what checkpoints cost on this machine, next to what they cost without an engine, in one run.",
               "ckpt-bench");
  app.set_version_flag("--version", version_text("ckpt-bench"));
  app.require_subcommand(1);
  add_footer(app,
             "  ckpt-bench all --quick --store /scratch/bench --html report.html\n"
             "  ckpt-bench compare --workload key-value --store /scratch/bench\n"
             "  ckpt-bench stall --size 1GiB --dirty 1% --pattern scattered --repeat-pages --store /scratch/bench\n"
             "  ckpt-bench matrix --size 256MiB --dirty 1%,10% --tracker auto,hash --store /scratch/bench\n"
             "  ckpt-bench phases --size 1GiB --store /scratch/bench\n"
             "  ckpt-bench throughput --size 1GiB --data particles --store /scratch/bench --json\n"
             "  ckpt-bench restore --size 1GiB --store /scratch/bench\n"
             "  ckpt-bench retention --checkpoints 10000 --retain 8 --store /scratch/bench\n"
             "  ckpt-bench scale --images 1000 --store /scratch/bench\n",
             "Exit codes: 0 good, 1 failure, 2 usage.\nFigures are medians of one run; compare within a run only.\n"
             "'ckpt-bench COMMAND --help' tells more.");
  const std::vector<BenchCommand> commands = {add_stall(app),      add_matrix(app),  add_phases(app),
                                              add_throughput(app), add_restore(app), add_retention(app),
                                              add_scale(app),      add_compare(app), add_all(app)};
  std::string command_line = "ckpt-bench";
  for (int i = 1; i < argc; ++i) command_line += std::string(" ") + argv[i];
  return run_command_line(app, argc, argv, [&] {
    catch_interrupts();
    for (const auto& command : commands)
      if (command.app->parsed()) return command.run(command_line);
    return static_cast<int>(kUsage);
  });
}

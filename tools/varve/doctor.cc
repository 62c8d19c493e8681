// SPDX-License-Identifier: Apache-2.0
//
// varve doctor: what this machine offers, found out by doing, and what would serve better.
#include <memory>

#include <fmt/format.h>

#include "tools/machine.h"
#include "tools/table.h"
#include "tools/units.h"
#include "tools/varve/commands.h"
#include "tools/varve/diagnosis.h"

namespace varve::tools {
namespace {

struct DoctorOptions {
  CommonOptions common;
  std::string directory = ".";
};

std::string as_text(const Diagnosis& diagnosis) {
  const Machine& machine = diagnosis.machine;
  std::string text =
      fmt::format("machine        {}, {} processors, {} of memory{}\n", machine.processor, machine.processors,
                  format_bytes(machine.memory_bytes), machine.virtual_machine ? ", virtual" : "");
  text += fmt::format("kernel         {} {}\n", machine.kernel, machine.architecture);
  text += fmt::format("user           {}\n", diagnosis.root ? "root" : fmt::format("{} (not root)", diagnosis.user));
  text += fmt::format("huge pages     transparent: {}\n", machine.huge_pages);
  text += fmt::format("hash           XXH3-128, {}\n\n", diagnosis.hash);

  Table table({{"KIND"}, {"BACK END"}, {"WORKS"}, {"CHOSEN"}, {"REMARK"}});
  for (const auto& row : diagnosis.back_ends)
    table.add({row.kind, row.name, row.works ? "yes" : "no", row.chosen ? "yes" : "", row.remark});
  text += table.text() + "\n";

  Table costs({{"COST"}, {"TIME", Table::Align::right}, {"REMARK"}});
  for (const auto& cost : diagnosis.costs.costs) costs.add({cost.what, format_ns(cost.ns), cost.remark});
  text += costs.text() + fmt::format("measured in {}\n\n", format_ns(diagnosis.costs.took_ns));
  for (const auto& why : diagnosis.costs.why) text += "why            " + why + "\n";

  if (diagnosis.file_system) {
    const auto& traits = *diagnosis.file_system;
    text += fmt::format("file system    of {}: {}, {} free, {}, {}\n", diagnosis.directory, traits.type,
                        format_bytes(traits.free_bytes), traits.direct ? "O_DIRECT works" : "no O_DIRECT",
                        traits.durable ? "durable after a flush" : "images are written, never durable");
  } else {
    text += fmt::format("file system    of {}: {}\n", diagnosis.directory, diagnosis.file_system_error);
  }
  for (const auto& advice : diagnosis.advice) text += "advice         " + advice + "\n";
  if (diagnosis.advice.empty()) text += "advice         none: everything that this version can use is there\n";
  return text;
}

nlohmann::json as_json(const Diagnosis& diagnosis) {
  auto json = machine_json(diagnosis.machine);
  json["user"] = diagnosis.user;
  json["root"] = diagnosis.root;
  json["hash"] = diagnosis.hash;
  json["advice"] = diagnosis.advice;
  json["back_ends"] = nlohmann::json::array();
  json["chosen"] = nlohmann::json::object();
  for (const auto& row : diagnosis.back_ends) {
    json["back_ends"].push_back(
        {{"kind", row.kind}, {"name", row.name}, {"works", row.works}, {"chosen", row.chosen}, {"remark", row.remark}});
    if (row.chosen) json["chosen"][row.kind] = row.name;
  }
  json["costs"] = nlohmann::json::object();
  for (const auto& cost : diagnosis.costs.costs) json["costs"][cost.key] = cost.ns;
  json["costs"]["measured_in_ns"] = diagnosis.costs.took_ns;
  json["why"] = diagnosis.costs.why;
  json["file_system"] = {{"directory", diagnosis.directory}};
  if (diagnosis.file_system) {
    const auto& traits = *diagnosis.file_system;
    json["file_system"].update({{"type", traits.type},
                                {"durable", traits.durable},
                                {"direct", traits.direct},
                                {"free_bytes", traits.free_bytes}});
  } else {
    json["file_system"]["error"] = diagnosis.file_system_error;
  }
  return json;
}

int run_doctor(const DoctorOptions& options) {
  const Diagnosis diagnosis = diagnose(options.directory);
  const ExitCode code = diagnosis.usable ? kGood : kFailure;
  if (options.common.json) return print("varve doctor", as_json(diagnosis), code);
  return print("varve doctor", as_text(diagnosis), code);
}

}  // namespace

Command add_doctor(CLI::App& parent) {
  auto options = std::make_shared<DoctorOptions>();
  auto* app = parent.add_subcommand(
      "doctor",
      "Tell which back ends work on this machine, what pages cost here, which back ends would\n"
      "be chosen and why, and what would serve better. Everything is probed by doing; nothing is changed.");
  app->add_option("DIRECTORY", options->directory, "where a store would be (its file system is looked at)")
      ->capture_default_str();
  add_common(*app, options->common);
  add_footer(*app,
             "  varve doctor\n"
             "  varve doctor /scratch --json | jq .chosen\n",
             "Exit codes: 0 good, 1 a forced back end (VARVE_TRACKER, VARVE_CAPTURE, VARVE_IO) does not work here or\n"
             "the directory can't hold a store, 2 usage.");
  return {app, [options] { return run_doctor(*options); }};
}

}  // namespace varve::tools

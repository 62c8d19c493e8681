// SPDX-License-Identifier: Apache-2.0
//
// varve inspect: any file of a store as text, told by its content.
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>

#include <fmt/format.h>

#include "base/os_error.h"
#include "storage/inventory.h"
#include "storage/store_file.h"
#include "tools/table.h"
#include "tools/units.h"
#include "tools/varve/commands.h"
#include "tools/varve/file_view.h"
#include "tools/varve/segment_view.h"

namespace varve::tools {
namespace {

constexpr std::uint64_t kSmallFileBytes = std::uint64_t{256} << 20;  // store file, inventory, lock

struct InspectOptions {
  CommonOptions common;
  std::string file;
  bool chunks = false;
};

struct Output {
  nlohmann::json json;
  std::string text;
  ExitCode code = kGood;
};

Error not_a_store_file(const std::string& file) {
  return fail(ErrorCode::invalid_argument, {"inspection of " + file + " failed", "it begins like no file of a store",
                                            "name varve.store, inventory, lock or a file in segments/ of a store"});
}

Result<Output> inspect_store_file(const FileView& file) {
  auto content = file.read(0, file.bytes());
  if (!content) return content.error();
  auto identity = storage::decode_store_file(*content);
  if (!identity) return identity.error();
  Output output;
  const std::string id = storage::to_hex(identity->id);
  output.json = {{"file", file.name()},
                 {"kind", "store"},
                 {"format", storage::kFormatVersion},
                 {"id", id},
                 {"chunk_bytes", identity->chunk_bytes}};
  // The secret keys the chunks' names; who may read this file may read it there.
  output.text = fmt::format("store {}, format {}, chunks of {} bytes, checksum good\n", id, storage::kFormatVersion,
                            identity->chunk_bytes);
  return output;
}

Result<Output> inspect_inventory(const FileView& file) {
  auto content = file.read(0, file.bytes());
  if (!content) return content.error();
  auto inventory = storage::decode_inventory(*content);
  if (!inventory) return inventory.error();
  using Align = Table::Align;
  Output output;
  Table chains({{"CHAIN"}, {"NEWEST", Align::right}, {"NEXT", Align::right}});
  auto chain_rows = nlohmann::json::array();
  for (const auto& [name, chain] : inventory->chains) {
    chains.add({name, chain.newest_number == 0 ? "-" : std::to_string(chain.newest_number),
                std::to_string(chain.next_number)});
    chain_rows.push_back({{"chain", name}, {"newest", chain.newest_number}, {"next", chain.next_number}});
  }
  Table segments({{"SEGMENT"}, {"BYTES", Align::right}, {"FOOTER CHECKSUM"}});
  auto segment_rows = nlohmann::json::array();
  for (const auto& [name, segment] : inventory->segments) {
    const bool by_note = segment.footer_checksum == 0;
    segments.add({to_string(name), format_count(segment.bytes),
                  by_note ? "sealed by a note" : fmt::format("{:016x}", segment.footer_checksum)});
    segment_rows.push_back({{"segment", to_string(name)}, {"bytes", segment.bytes}, {"sealed_by_note", by_note}});
  }
  const std::string id = storage::to_hex(inventory->store);
  output.json = {{"file", file.name()},
                 {"kind", "inventory"},
                 {"store", id},
                 {"generation", inventory->generation},
                 {"collections", inventory->collections},
                 {"chains", std::move(chain_rows)},
                 {"segments", std::move(segment_rows)}};
  output.text = fmt::format("inventory of store {}, generation {}, {} collections, checksum good\n\n{}\n{}", id,
                            inventory->generation, inventory->collections, chains.text(), segments.text());
  return output;
}

Result<Output> inspect_lock(const FileView& file) {
  auto content = file.read(0, file.bytes());
  if (!content) return content.error();
  Output output;
  output.json = {{"file", file.name()}, {"kind", "lock"}, {"holders", nlohmann::json::array()}};
  std::string all(reinterpret_cast<const char*>(content->data()), content->size());
  for (std::size_t at = 0; at < all.size();) {
    const auto end = std::min(all.find('\n', at), all.size());
    std::string line = all.substr(at, end - at);
    line.erase(line.find_last_not_of(std::string_view(" \0", 2)) + 1);
    if (!line.empty()) {
      output.json["holders"].push_back(line);
      output.text += line + "\n";
    }
    at = end + 1;
  }
  if (output.text.empty())
    output.text = "lock file without a holder: no chain is open for writing, or the last writer closed\n";
  else
    output.text += "(notes of the holders; a line of a process that was killed stays until the next writer comes)\n";
  return output;
}

Result<Output> inspect_segment(const FileView& file, const InspectOptions& options) {
  Progress progress("reading " + file.name(), options.common.show_progress());
  auto view = view_segment(file, {.chunks = options.chunks}, progress);
  if (!view) return view.error();
  return Output{view->json, view->text, view->damaged ? kFailure : kGood};
}

Result<Output> inspect(const InspectOptions& options) {
  auto file = FileView::open(options.file);
  if (!file) return file.error();
  const bool is_lock = std::filesystem::path(options.file).filename() == storage::kLockFile;
  auto magic = file->read(0, 8);
  if (!magic) return magic.error();
  const std::string_view begin(reinterpret_cast<const char*>(magic->data()), magic->size());
  if (begin == "varvsegm") return inspect_segment(*file, options);
  if (file->bytes() > kSmallFileBytes) return not_a_store_file(options.file);
  if (begin == "varvstor") return inspect_store_file(*file);
  if (begin == "varvinvt") return inspect_inventory(*file);
  if (begin == "varve-ho" || (is_lock && file->bytes() == 0)) return inspect_lock(*file);
  return not_a_store_file(options.file);
}

int run_inspect(const InspectOptions& options) {
  auto output = inspect(options);
  if (!output) return report("varve inspect", output.error());
  if (options.common.json) return print("varve inspect", output->json, output->code);
  return print("varve inspect", output->text, output->code);
}

}  // namespace

Command add_inspect(CLI::App& parent) {
  auto options = std::make_shared<InspectOptions>();
  auto* app = parent.add_subcommand("inspect",
                                    "Print a file of a store as text: varve.store, inventory, lock, or a segment with\n"
                                    "its records and their offsets (docs/formats/).");
  app->add_option("FILE", options->file, "a file of a store")->required();
  app->add_flag("--chunks", options->chunks, "list the chunks of each frame, too");
  add_common(*app, options->common);
  add_footer(*app,
             "  varve inspect ckpt/varve.store\n"
             "  varve inspect ckpt/segments/*-1.seg\n"
             "  varve inspect ckpt/segments/*-1.seg --json | jq '.records[] | select(.type == \"manifest\")'\n");
  return {app, [options] { return run_inspect(*options); }};
}

}  // namespace varve::tools

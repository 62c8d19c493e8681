// SPDX-License-Identifier: Apache-2.0
//
// Rows of `stall` and `matrix` as JSON and as text.
#include <fmt/format.h>

#include "tools/ckpt_bench/stall.h"
#include "tools/table.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

nlohmann::json ratio(double value, double of) { return of > 0 ? nlohmann::json(value / of) : nlohmann::json(); }

double share_of(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

nlohmann::json memory_json(const StallRow& row) {
  const MemoryUse& memory = row.memory;
  return {{"protected_bytes", row.plan.shape.bytes},
          {"staging_bytes", memory.staging_bytes},
          {"index_bytes", memory.index_bytes},
          {"indexed_chunks", memory.indexed_chunks},
          {"index_bytes_per_chunk", share_of(memory.index_bytes, memory.indexed_chunks)},
          {"other_bytes", memory.other_bytes},
          {"other_share", share_of(memory.other_bytes, row.plan.shape.bytes)},
          {"resident_growth_bytes", row.resident_growth_bytes}};
}

}  // namespace

double StallRow::slowdown() const {
  const double plain = epoch_plain.median();
  return plain > 0 ? epoch_with.median() / plain - 1 : 0;
}

double StallRow::slowdown_with_stall() const {
  const double plain = epoch_plain.median();
  return plain > 0 ? (epoch_with.median() + stall.median()) / plain - 1 : 0;
}

double StallRow::slowdown_processor() const {
  const double plain = processor_plain.median();
  return plain > 0 ? processor_with.median() / plain - 1 : 0;
}

nlohmann::json StallRow::json() const {
  const auto& shape = plan.shape;
  const auto median_or_null = [](const Samples& samples) {
    return samples.empty() ? nlohmann::json() : nlohmann::json(samples.median());
  };
  return {
      {"workload", describe(shape)},
      {"size", shape.bytes},
      {"dirty", shape.dirty},
      {"pattern", to_string(shape.pattern)},
      {"repeat_pages", shape.repeat_pages},
      {"data", to_string(shape.data)},
      {"wanted", {{"tracker", plan.back_ends.tracker}, {"capture", plan.back_ends.capture}, {"io", plan.back_ends.io}}},
      {"tracker", choices.tracker},
      {"capture", choices.capture},
      {"io", choices.io},
      {"file_system", choices.file_system},
      {"epochs", stall.count()},
      {"warm_up", plan.warm_up},
      {"stores", stores},
      {"stall_ns", stall.json()},
      {"scan_ns", scan.json()},
      {"capture_ns", capture.json()},
      {"floor_ns", median_or_null(floor)},
      {"floor",
       {{"total_ns", floor.json()},
        {"scan_ns", floor_scan.json()},
        {"copy_ns", floor_copy.json()},
        {"listing", listing}}},
      {"full_write_ns", median_or_null(full_write)},
      {"full_write", full_write.json()},
      {"stall_over_floor", ratio(stall.median(), floor.median())},
      {"full_write_over_stall", ratio(full_write.median(), stall.median())},
      {"durable_ns", durable.json()},
      {"reduce_ns", reduce.json()},
      {"commit_ns", commit.json()},
      {"epoch_ns", {{"without", epoch_plain.json()}, {"with", epoch_with.json()}, {"before", epoch_before.json()}}},
      {"epoch_processor_ns", {{"without", processor_plain.json()}, {"with", processor_with.json()}}},
      {"slowdown", slowdown()},
      {"slowdown_with_stall", slowdown_with_stall()},
      {"slowdown_processor", slowdown_processor()},
      {"suspect_pages", suspects.json()},
      {"changed_chunks", changed.json()},
      {"cooled_pages", cooled.json()},
      {"mistaken_pages", mistaken.json()},
      {"unlisted_bytes", unlisted.json()},
      {"capture_why", capture_why},
      {"written_bytes", written.json()},
      {"raw_bytes", raw.json()},
      {"first_image",
       {{"written_bytes", first.written_bytes},
        {"raw_bytes", first.raw_bytes},
        {"stall_ns", first.stall_ns},
        {"durable_ns", first.durable_ns}}},
      {"memory", memory_json(*this)},
      {"store_bytes_after_close", store_bytes},
      {"images_in_store", images}};
}

std::string stall_table(const std::vector<StallRow>& rows) {
  using Align = Table::Align;
  Table table({{"WORKLOAD"},
               {"TRACKER"},
               {"CAPTURE"},
               {"IO"},
               {"STALL", Align::right},
               {"P99", Align::right},
               {"MAX", Align::right},
               {"FLOOR", Align::right},
               {"/FLOOR", Align::right},
               {"FULL WRITE", Align::right},
               {"/STALL", Align::right},
               {"DURABLE", Align::right},
               {"WRITTEN", Align::right},
               {"SLOWER", Align::right}});
  const auto first_word = [](const std::string& choice) { return choice.substr(0, choice.find_first_of(": (")); };
  for (const auto& row : rows) {
    const double floor = row.floor.median(), stall = row.stall.median(), full = row.full_write.median();
    table.add({describe(row.plan.shape), first_word(row.choices.tracker), first_word(row.choices.capture),
               first_word(row.choices.io), format_ns(stall), format_ns(row.stall.quantile(0.99)),
               format_ns(row.stall.max()), format_ns(floor), floor > 0 ? fmt::format("{:.2f}", stall / floor) : "-",
               row.full_write.empty() ? "-" : format_ns(full),
               row.full_write.empty() || stall <= 0 ? "-" : fmt::format("{:.0f}", full / stall),
               format_ns(row.durable.median()), format_bytes(static_cast<std::uint64_t>(row.written.median())),
               format_percent(row.slowdown())});
  }
  return table.text();
}

std::string stall_details(const StallRow& row) {
  const MemoryUse& memory = row.memory;
  std::string text = "\nmedians, with the tenth and the ninetieth percentile:\n";
  const auto line = [&text](std::string_view name, const std::string& value) {
    text += fmt::format("  {:<34} {}\n", name, value);
  };
  line("stall", row.stall.text_ns());
  line("  of it listing / capture", row.scan.text_ns() + " / " + row.capture.text_ns());
  line("floor: one scan + one memcpy", row.floor.text_ns());
  line("  of it scan / memcpy", row.floor_scan.text_ns() + " / " + row.floor_copy.text_ns());
  line("write(2) + fdatasync of everything", row.full_write.text_ns());
  line("cut to durable", row.durable.text_ns());
  line("epoch without checkpoints", row.epoch_plain.text_ns());
  line("  of them before the first engine", row.epoch_before.text_ns());
  line("epoch while an image is written", row.epoch_with.text_ns());
  line("slower, without / with the stall",
       format_percent(row.slowdown()) + " / " + format_percent(row.slowdown_with_stall()));
  line("  in time on a processor", format_percent(row.slowdown_processor()));
  line("suspect pages / changed chunks", format_count(static_cast<std::uint64_t>(row.suspects.median())) + " / " +
                                             format_count(static_cast<std::uint64_t>(row.changed.median())));
  const auto pages = [](const Samples& samples) { return format_count(static_cast<std::uint64_t>(samples.median())); };
  line("protected / of them too early, pages", pages(row.cooled) + " / " + pages(row.mistaken));
  line("so hot that nobody looked", format_bytes(static_cast<std::uint64_t>(row.unlisted.median())));
  line("captured by", row.capture_why);
  line("written for an image", format_bytes(static_cast<std::uint64_t>(row.written.median())) + ", first image " +
                                   format_bytes(row.first.written_bytes));
  line("store after a clean close", fmt::format("{} in {} images", format_bytes(row.store_bytes), row.images));
  line("staging memory", format_bytes(memory.staging_bytes));
  line("index", fmt::format("{} for {} chunks, {:.1f} bytes each", format_bytes(memory.index_bytes),
                            format_count(memory.indexed_chunks), share_of(memory.index_bytes, memory.indexed_chunks)));
  line("other memory of the engine", fmt::format("{}, {} of the protected memory", format_bytes(memory.other_bytes),
                                                 format_percent(share_of(memory.other_bytes, row.plan.shape.bytes))));
  line("growth of the process", format_bytes(row.resident_growth_bytes));
  line("tracker", row.choices.tracker);
  line("capture", row.choices.capture);
  line("io", row.choices.io);
  return text;
}

}  // namespace varve::tools

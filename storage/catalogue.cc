// SPDX-License-Identifier: Apache-2.0
#include "storage/catalogue.h"

#include <algorithm>

namespace varve::storage {

void Catalogue::add_image(const std::string& chain_name, const FooterImage& image, std::uint32_t segment) {
  Chain& chain = chains_[chain_name];
  chain.next_number = std::max(chain.next_number, image.number + 1);
  const auto [at, inserted] = chain.images.try_emplace(image.number, Image{image, segment});
  // Compaction writes an image again under a higher revision, garbage collection moves it under the same.
  if (!inserted && image.revision >= at->second.summary.revision) at->second = Image{image, segment};
}

void Catalogue::add_note(const Note& note) {
  Chain& chain = chains_[note.chain];
  chain.next_sequence = std::max(chain.next_sequence, note.sequence + 1);
  if (note.kind == NoteKind::seal || note.kind == NoteKind::moved) return;  // about segments
  for (const std::uint64_t number : note.numbers) {
    if (note.kind == NoteKind::retire) {
      chain.retired.insert(number);
    } else if (note.kind == NoteKind::label) {
      Noted<std::string>& label = chain.labels[number];
      if (note.sequence >= label.sequence) label = {note.sequence, note.label};
    } else {
      Noted<bool>& pin = chain.pins[number];
      if (note.sequence >= pin.sequence) pin = {note.sequence, note.kind == NoteKind::pin};
    }
  }
}

void Catalogue::raise_next_number(const std::string& chain_name, std::uint64_t next) {
  Chain& chain = chains_[chain_name];
  chain.next_number = std::max(chain.next_number, next);
}

const Catalogue::Chain* Catalogue::chain(std::string_view name) const {
  const auto at = chains_.find(name);
  return at == chains_.end() ? nullptr : &at->second;
}

const Catalogue::Image* Catalogue::find(std::string_view chain_name, std::uint64_t number) const {
  const Chain* found = chain(chain_name);
  if (found == nullptr || found->retired.contains(number)) return nullptr;
  const auto at = found->images.find(number);
  return at == found->images.end() ? nullptr : &at->second;
}

std::uint64_t Catalogue::next_number(std::string_view chain_name) const {
  const Chain* found = chain(chain_name);
  return found == nullptr ? 1 : found->next_number;
}

std::uint64_t Catalogue::newest_number(std::string_view chain_name) const {
  const Chain* found = chain(chain_name);
  if (found == nullptr) return 0;
  for (auto at = found->images.rbegin(); at != found->images.rend(); ++at)
    if (!found->retired.contains(at->first)) return at->first;
  return 0;
}

bool Catalogue::retired(std::string_view chain_name, std::uint64_t number) const {
  const Chain* found = chain(chain_name);
  return found != nullptr && found->retired.contains(number);
}

const std::string& Catalogue::label(std::string_view chain_name, std::uint64_t number) const {
  const Chain* found = chain(chain_name);
  return label_of(*found, found->images.at(number));
}

bool Catalogue::pinned(std::string_view chain_name, std::uint64_t number) const {
  return pinned_of(*chain(chain_name), number);
}

std::uint64_t Catalogue::next_sequence(std::string_view chain_name) const {
  const Chain* found = chain(chain_name);
  return found == nullptr ? 1 : found->next_sequence;
}

std::vector<std::string> Catalogue::chains() const {
  std::vector<std::string> names;
  for (const auto& [name, chain] : chains_) names.push_back(name);
  return names;
}

const std::string& Catalogue::label_of(const Chain& chain, const Image& image) {
  const auto at = chain.labels.find(image.summary.number);
  return at == chain.labels.end() ? image.summary.label : at->second.value;
}

bool Catalogue::pinned_of(const Chain& chain, std::uint64_t number) {
  const auto at = chain.pins.find(number);
  return at != chain.pins.end() && at->second.value;
}

}  // namespace varve::storage

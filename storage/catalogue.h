// SPDX-License-Identifier: Apache-2.0
//
// Catalogue: the list of images, made of the manifests and notes of all segments in any order.
//
// Threads: one at a time; the store guards it.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "storage/footer.h"
#include "storage/note.h"
#include "storage/store.h"

namespace varve::storage {

class Catalogue {
 public:
  struct Image {
    FooterImage summary;
    std::uint32_t segment = 0;  ///< the store's number of the segment that holds the manifest
  };

  void add_image(const std::string& chain, const FooterImage& image, std::uint32_t segment);
  void add_note(const Note& note);
  /// Numbers below `next` are used up.
  void raise_next_number(const std::string& chain, std::uint64_t next);
  void clear() { chains_.clear(); }

  /// Null when there is none, or it was retired.
  const Image* find(std::string_view chain, std::uint64_t number) const;
  std::uint64_t next_number(std::string_view chain) const;
  std::uint64_t newest_number(std::string_view chain) const;  ///< of the listed ones; 0: none
  bool retired(std::string_view chain, std::uint64_t number) const;
  /// The label and the pin that count for a listed image. REQUIRES: find() gave it.
  const std::string& label(std::string_view chain, std::uint64_t number) const;
  bool pinned(std::string_view chain, std::uint64_t number) const;
  std::uint64_t next_sequence(std::string_view chain) const;
  std::vector<std::string> chains() const;

  /// Calls take(chain, image, label, pinned) in order of chain and number.
  template <class Take>
  void each(Take&& take) const {
    for (const auto& [name, chain] : chains_)
      for (const auto& [number, image] : chain.images)
        if (!chain.retired.contains(number)) take(name, image, label_of(chain, image), pinned_of(chain, number));
  }

 private:
  template <class T>
  struct Noted {
    std::uint64_t sequence = 0;
    T value{};
  };
  struct Chain {
    std::map<std::uint64_t, Image> images;  // retired ones too
    std::set<std::uint64_t> retired;
    std::map<std::uint64_t, Noted<std::string>> labels;
    std::map<std::uint64_t, Noted<bool>> pins;
    std::uint64_t next_number = 1;
    std::uint64_t next_sequence = 1;
  };

  const Chain* chain(std::string_view name) const;
  static const std::string& label_of(const Chain& chain, const Image& image);
  static bool pinned_of(const Chain& chain, std::uint64_t number);

  std::map<std::string, Chain, std::less<>> chains_;
};

}  // namespace varve::storage

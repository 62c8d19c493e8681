// SPDX-License-Identifier: Apache-2.0
//
// Footers, trailers and notes: what comes back, and what is refused.
#include <gtest/gtest.h>

#include "storage/catalogue.h"
#include "storage/footer.h"
#include "storage/note.h"

namespace varve::storage {
namespace {

Footer example() {
  Footer footer;
  footer.generation = 7;
  footer.end = 3 * 4096;
  footer.chain = "main";
  footer.frames = {{4096, 640, 2}, {4096 + 640, 128, 1}};
  footer.names = {{1, 2}, {3, 4}, {5, 6}};
  FooterImage image;
  image.offset = 4096 + 768;
  image.number = 3;
  image.parent = 1;
  image.time_ns = 99;
  image.region_bytes = 8192;
  image.begin = 4096;
  image.written_bytes = 4096;
  image.kind = ImageKind::delta;
  image.label = "before";
  footer.images = {image};
  footer.notes = {{8192, encode_note({NoteKind::pin, 4, "main", {3}, {}, {}})}};
  return footer;
}

TEST(Footer, ComesBackWhole) {
  auto decoded = decode_footer(encode_footer(example()), {"f", 0});
  ASSERT_TRUE(decoded.has_value()) << decoded.error().message();
  EXPECT_EQ(*decoded, example());
}

TEST(Footer, NoTruncationOrChangedByteIsTakenBadly) {
  const auto payload = encode_footer(example());
  for (std::size_t length = 0; length < payload.size(); ++length)
    EXPECT_FALSE(decode_footer(std::span(payload).first(length), {"f", 0}).has_value()) << length;
  for (std::size_t at = 0; at < payload.size(); ++at) {
    for (const int value : {0x00, 0x7F, 0xFF}) {
      auto changed = payload;
      changed[at] = static_cast<std::byte>(value);
      auto decoded = decode_footer(changed, {"f", 0});
      if (!decoded) continue;
      std::size_t names = 0;
      for (const FooterFrame& frame : decoded->frames) names += frame.chunks;
      EXPECT_EQ(names, decoded->names.size());
    }
  }
}

TEST(Seal, EndsInATrailerThatFindsTheFooter) {
  SegmentHeader header;
  header.store[0] = std::byte{1};
  header.incarnation[0] = std::byte{2};
  Trailer trailer;
  const auto seal = encode_seal(example(), header, 7, trailer);
  EXPECT_EQ(seal.size() % kBlockBytes, 0U);
  const std::uint64_t file_bytes = example().end + seal.size();
  const auto bytes = std::span(seal).last(kTrailerBytes);
  auto decoded = decode_trailer(bytes, header.store, {"f", file_bytes - kTrailerBytes});
  ASSERT_TRUE(decoded.has_value()) << decoded.error().message();
  EXPECT_EQ(decoded->footer_offset, example().end);
  EXPECT_EQ(decoded->file_bytes, file_bytes);
  EXPECT_EQ(decoded->incarnation, header.incarnation);
  // Not in a longer or shorter file, and not in another store.
  EXPECT_FALSE(decode_trailer(bytes, header.store, {"f", file_bytes}).has_value());
  EXPECT_FALSE(decode_trailer(bytes, StoreId{}, {"f", file_bytes - kTrailerBytes}).has_value());
}

std::vector<Note> all_notes() {
  SealedElsewhere seal;
  seal.name = {0xAB, 3};
  seal.incarnation[5] = std::byte{9};
  seal.end = 8192;
  seal.footer = encode_footer(example());
  return {{NoteKind::retire, 1, "main", {1, 2}, {}, {}}, {NoteKind::label, 2, "main", {3}, "good", {}},
          {NoteKind::label, 3, "main", {3}, "", {}},     {NoteKind::pin, 4, "other", {7}, {}, {}},
          {NoteKind::unpin, 5, "other", {7}, {}, {}},    {NoteKind::seal, 6, "main", {}, {}, seal}};
}

TEST(Note, EveryKindComesBackAndTruncationsDoNot) {
  for (const Note& note : all_notes()) {
    const auto content = encode_note(note);
    auto decoded = decode_note(content, {"f", 0});
    ASSERT_TRUE(decoded.has_value()) << decoded.error().message();
    EXPECT_EQ(*decoded, note);
    for (std::size_t length = 0; length < content.size(); ++length)
      EXPECT_FALSE(decode_note(std::span(content).first(length), {"f", 0}).has_value());
  }
}

TEST(Note, AnUnknownKindIsRefusedByNumber) {
  auto content = encode_note(all_notes()[0]);
  content[0] = std::byte{77};
  auto decoded = decode_note(content, {"f", 0});
  ASSERT_FALSE(decoded.has_value());
  EXPECT_EQ(decoded.error().code(), ErrorCode::unsupported);
  EXPECT_NE(decoded.error().message().find("77"), std::string::npos);
}

FooterImage image(std::uint64_t number, std::uint64_t revision = 0) {
  FooterImage line;
  line.number = number;
  line.revision = revision;
  return line;
}

TEST(Catalogue, NotesCountInAnyOrder) {
  const Note retire{NoteKind::retire, 9, "main", {2}, {}, {}};
  const Note old_label{NoteKind::label, 1, "main", {1}, "old", {}};
  const Note new_label{NoteKind::label, 5, "main", {1}, "new", {}};
  const Note pin{NoteKind::pin, 6, "main", {1}, {}, {}};
  for (const bool notes_first : {false, true}) {
    Catalogue catalogue;
    const auto add_notes = [&] {
      for (const Note& note : {new_label, old_label, retire, pin}) catalogue.add_note(note);
    };
    if (notes_first) add_notes();
    for (std::uint64_t number = 1; number <= 3; ++number) catalogue.add_image("main", image(number), 1);
    if (!notes_first) add_notes();
    std::vector<std::string> seen;
    catalogue.each([&](const std::string&, const Catalogue::Image& one, const std::string& label, bool pinned) {
      seen.push_back(std::to_string(one.summary.number) + label + (pinned ? "!" : ""));
    });
    EXPECT_EQ(seen, (std::vector<std::string>{"1new!", "3"}));
    EXPECT_EQ(catalogue.next_number("main"), 4U);
    EXPECT_EQ(catalogue.next_sequence("main"), 10U);
    EXPECT_EQ(catalogue.find("main", 2), nullptr);
  }
}

TEST(Catalogue, TheHighestRevisionCountsAndNumbersStayUsed) {
  Catalogue catalogue;
  catalogue.add_image("main", image(4, 1), 10);
  catalogue.add_image("main", image(4, 0), 11);
  EXPECT_EQ(catalogue.find("main", 4)->segment, 10U);
  catalogue.add_note({NoteKind::retire, 1, "main", {4}, {}, {}});
  EXPECT_EQ(catalogue.newest_number("main"), 0U);
  EXPECT_EQ(catalogue.next_number("main"), 5U);
  EXPECT_EQ(catalogue.next_number("other"), 1U);
}

}  // namespace
}  // namespace varve::storage

// SPDX-License-Identifier: Apache-2.0
//
// Runs a fuzzer's function once on each file of the folders and files named as arguments: the seeds as a plain test, in
// every build and without clang. An input that finds something is kept in the corpus and so never comes back unseen.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

// The name and the type are libFuzzer's.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count);  // NOLINT

namespace {

int replay(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const std::vector<std::uint8_t> bytes(content.begin(), content.end());
  std::printf("[ RUN      ] %s\n", path.filename().c_str());
  std::fflush(stdout);  // so that a crash is known by its file
  const int status = file ? LLVMFuzzerTestOneInput(bytes.data(), bytes.size()) : 1;
  std::printf("%s %s (0 ms)\n", status == 0 ? "[       OK ]" : "[  FAILED  ]", path.filename().c_str());
  return status == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  int failed = 0;
  int count = 0;
  for (int i = 1; i < argc; ++i) {
    if (!std::filesystem::is_directory(argv[i])) {
      failed += replay(argv[i]);
      ++count;
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
      failed += replay(entry.path());
      ++count;
    }
  }
  if (count == 0) std::fprintf(stderr, "no input: name files or folders of them\n");
  return failed == 0 && count > 0 ? 0 : 1;
}

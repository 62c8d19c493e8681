// SPDX-License-Identifier: Apache-2.0
#include "tools/report/page.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string_view>

#include "base/os_error.h"
#include "base/try.h"
#include "base/unique_fd.h"
#include "tools/report/page_pieces.h"

namespace varve::tools {
namespace {

// JSON that may stand in a script element: with no '<' in it, it holds neither "</script" nor "<!--", which are all
// that ends or changes such an element (HTML standard, "Restrictions for contents of script elements").
std::string as_script_content(const nlohmann::json& json) {
  const std::string text = json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  std::string safe;
  safe.reserve(text.size());
  for (const char letter : text) {
    if (letter == '<')
      safe += "\\u003c";
    else
      safe += letter;
  }
  return safe;
}

nlohmann::json as_json(const Report& report) {
  auto facts = nlohmann::json::array();
  for (const auto& [name, value] : report.facts) facts.push_back({name, value});
  auto sections = nlohmann::json::array();
  for (const auto& section : report.sections)
    sections.push_back({{"title", section.title}, {"text", section.text}, {"plots", section.plots}});
  return {{"title", report.title},       {"subtitle", report.subtitle},     {"facts", std::move(facts)},
          {"warnings", report.warnings}, {"sections", std::move(sections)}, {"figures", report.figures}};
}

Error refused(const std::string& path, int os_errno) {
  const bool room = os_errno == ENOSPC || os_errno == EDQUOT || os_errno == EFBIG;
  return os_error(
      "write of the report " + path + " failed", os_errno,
      room ? "make room, or name a file elsewhere" : "name a file in a directory that exists and that you may write");
}

// The regular file that `path` names or would name, with no symbolic link in it: a rename onto one would replace the
// link. Onto a device, a pipe or the like it would replace that.
Result<std::string> target_of(const std::string& path) {
  const auto no_file = [&path](const std::string& cause) {
    return fail(ErrorCode::invalid_argument,
                {"write of the report " + path + " failed", cause, "name a regular file, or one that does not exist"});
  };
  if (path.empty()) return no_file("the name is empty");
  struct stat info {};
  if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode))
    return S_ISDIR(info.st_mode) ? refused(path, EISDIR) : no_file("it exists and is no regular file");
  std::error_code error;
  const auto target = std::filesystem::weakly_canonical(path, error);
  if (error) return refused(path, error.value());
  if (lstat(target.c_str(), &info) == 0 && !S_ISREG(info.st_mode))
    return no_file("it is a symbolic link to what does not exist");
  return target.string();
}

struct Temporary {
  std::string name;
  UniqueFd fd;
};

// mkstemp(3): a name that nobody has yet, never through a link. Not readable for others: a report names what a store
// holds.
Result<Temporary> make_temporary(const std::string& path, const std::string& target) {
  Temporary temporary{.name = target + ".XXXXXX", .fd = {}};
  temporary.fd = UniqueFd(mkostemp(temporary.name.data(), O_CLOEXEC));
  if (!temporary.fd.valid()) return refused(path, errno);
  return temporary;
}

Status write_all(int fd, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return refused(path, errno);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

}  // namespace

std::string report_page(const Report& report) {
  std::string result;
  std::string_view rest = page::kHtml;
  const auto replace = [&](std::string_view mark, std::string_view content) {
    const auto at = rest.find(mark);
    result.append(rest.substr(0, at)).append(content);
    rest.remove_prefix(at + mark.size());
  };
  replace("@STYLE@", page::kCss);
  replace("@DATA@", as_script_content(as_json(report)));
  replace("@SCRIPT@", page::kJs);
  return result.append(rest);
}

Status check_report_path(const std::string& path) {
  VARVE_TRY_ASSIGN(const std::string target, target_of(path));
  VARVE_TRY_ASSIGN(const Temporary temporary, make_temporary(path, target));
  unlink(temporary.name.c_str());
  return {};
}

Status write_report(const std::string& path, const Report& report) {
  VARVE_TRY_ASSIGN(const std::string target, target_of(path));
  VARVE_TRY_ASSIGN(const Temporary temporary, make_temporary(path, target));
  auto written = write_all(temporary.fd.get(), report_page(report), path);
  if (written && std::rename(temporary.name.c_str(), target.c_str()) != 0) written = refused(path, errno);
  if (!written) unlink(temporary.name.c_str());
  return written;
}

}  // namespace varve::tools

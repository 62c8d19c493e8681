#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The tidy tests: rules about the tree that no compiler checks. Standard library only.

usage: tidy.py TOP            checks the tree, a line a rule in GoogleTest's form; exit status 1 if a rule is broken
       tidy.py --self-test    breaks each rule in a copy of a small tree and looks whether it is found

A rule is a function of the Tree that yields messages "FILE[:LINE]: what is wrong; what to do".
"""
import ast
import fnmatch
import os
import re
import subprocess
import sys
import time

# Which folders a folder may include from. Arrows only go down; tracker and storage never see each other.
LAYERS = {
    "base": {"base"},
    "tracker": {"tracker", "base"},
    "storage": {"storage", "base"},
    "engine": {"engine", "tracker", "storage", "base"},
    "process": {"process", "engine", "tracker", "storage", "base"},
    "parallel": {"parallel", "engine", "tracker", "storage", "base"},
    "tools": {"tools", "engine", "tracker", "storage", "base"},
    "bench": {"bench", "engine", "tracker", "storage", "base"},
    "examples": {"examples"},
    "tests": {"tests", "tools", "bench", "engine", "tracker", "storage", "base"},
}
PUBLIC_FOLDERS = ("base/include/varve", "engine/include/varve")  # together they are <varve/...>
TOP_LEVEL = set(LAYERS) | {
    ".ci", ".clang-format", ".clang-tidy", ".gitignore", ".gitattributes", ".github", "CHANGELOG.md", "CMakeLists.txt",
    "CMakePresets.json", "CONTRIBUTING.md", "LICENSE", "README.md", "dev", "docs",
}
MAX_FILE_LINES = 600
MAX_LINE = 120
MAX_TEXT_LINE = 130  # of Markdown outside tables and code


class Tree:
    """The files of the project: what git knows or would add; without git, everything but build directories."""

    def __init__(self, top):
        self.top = top
        self.files = sorted(f for f in self.list() if os.path.isfile(os.path.join(top, f)))
        self.texts = {}

    def list(self):
        git = ["git", "-C", self.top, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        try:
            listed = subprocess.run(git, capture_output=True, check=True).stdout.decode().split("\0")
            if any(listed):
                return {name for name in listed if name}
        except (OSError, subprocess.CalledProcessError):
            pass  # no git, or not its tree
        found = []
        for folder, folders, names in os.walk(self.top):
            folders[:] = [f for f in folders if f not in (".git", ".cache", "build", "__pycache__")]
            found += [os.path.relpath(os.path.join(folder, name), self.top) for name in names]
        return found

    def text(self, name):
        if name not in self.texts:
            with open(os.path.join(self.top, name), encoding="utf-8", errors="surrogateescape") as file:
                self.texts[name] = file.read()
        return self.texts[name]

    def lines(self, name):
        return list(enumerate(self.text(name).splitlines(), 1))

    def exists(self, name):
        return os.path.exists(os.path.join(self.top, name))

    def named(self, *patterns):
        return [f for f in self.files if any(fnmatch.fnmatch(os.path.basename(f), p) for p in patterns)]

    def cpp(self):
        return self.named("*.h", "*.cc")

    def scripts(self):
        return [f for f in self.files if f.endswith((".sh", ".py", ".awk")) or self.shebang(f)]

    def shebang(self, name):
        with open(os.path.join(self.top, name), "rb") as file:
            line = file.readline(200)
        return line.decode(errors="replace").strip() if line.startswith(b"#!") else ""

    def sources(self):
        build = self.named("CMakeLists.txt", "*.cmake", "*.cmake.in")
        return sorted(set(self.cpp() + self.scripts() + build))


def nearby(name, target):
    """Where a file of its own folder may lie; examples are copied by users, so that they are written from examples/."""
    places = [os.path.normpath(os.path.join(os.path.dirname(name), target))]
    return places + ["examples/" + target] if name.startswith("examples/") else places


def included_folder(tree, name, target):
    """The layer that an #include "target" of file `name` reaches into; None: none of ours."""
    if target.startswith("varve/"):
        # result.h is base's part of the public headers, the rest is the engine's.
        return "base" if tree.exists("base/include/" + target) else "engine"
    first = target.split("/")[0]
    if "/" in target and first in LAYERS:
        return first
    return name.split("/")[0] if any(tree.exists(place) for place in nearby(name, target)) else None


def includes_go_down(tree):
    for name in tree.cpp():
        folder = name.split("/")[0]
        if folder not in LAYERS:
            continue
        for number, line in tree.lines(name):
            match = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
            if not match:
                continue
            target = match.group(2)
            if ".." in target.split("/"):
                yield f"{name}:{number}: #include by a path with '..'; write it from the top"
                continue
            layer = included_folder(tree, name, target)
            if match.group(1) == '"' and layer is None:
                yield f"{name}:{number}: \"{target}\" is no file of ours; write it from the top, or in <>"
            if layer is None or layer in LAYERS[folder]:
                continue
            if folder == "examples" and target.startswith("varve/"):
                continue
            yield f"{name}:{number}: {folder}/ must not include \"{target}\" of {layer}/; arrows only go down"


def links_go_down(tree):
    for folder, below in LAYERS.items():
        name = folder + "/CMakeLists.txt"
        if name not in tree.files or folder in ("tests", "examples"):
            continue
        for number, line in tree.lines(name):
            for layer in re.findall(r"\bvarve(?:_|::)(\w+)", line.split("#")[0]):
                if layer in LAYERS and layer not in below:
                    yield f"{name}:{number}: {folder}/ must not link varve_{layer}; arrows only go down"


def public_headers_include_only_the_standard_library(tree):
    for name in tree.files:
        if not name.startswith(PUBLIC_FOLDERS):
            continue
        for number, line in tree.lines(name):
            match = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
            if not match or re.fullmatch(r"[a-z_]+|std(def|int|bool)\.h", match.group(2)):
                continue
            if any(tree.exists(f[: -len("varve")] + match.group(2)) for f in PUBLIC_FOLDERS):
                continue
            yield f"{name}:{number}: a public header includes {match.group(2)}; only the standard library and varve/"


def public_headers_compile_alone(tree):
    arguments = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror",
                 "-x", "c++", "-"]
    folders = ["-I" + os.path.join(tree.top, f[: -len("/varve")]) for f in PUBLIC_FOLDERS]
    for name in tree.files:
        if not (name.startswith(PUBLIC_FOLDERS) and name.endswith(".h")):
            continue
        header = "varve/" + os.path.basename(name)
        result = subprocess.run(["g++", *folders, *arguments], input=f'#include "{header}"\n#include "{header}"\n',
                                capture_output=True, text=True, check=False)
        if result.returncode != 0:
            yield f"{name}: does not compile alone as C++17: {result.stderr.strip().splitlines()[0]}"


def readme_names_every_folder(tree):
    if "README.md" not in tree.files:
        yield "README.md: missing; it has the table of folders"
        return
    named = set(re.findall(r"^\| `([^`/]+)/` \|", tree.text("README.md"), re.MULTILINE))
    there = {f.split("/")[0] for f in tree.files if "/" in f}
    for folder in sorted(there - named):
        yield f"README.md: the table of folders lacks {folder}/; add a row"
    for folder in sorted(named - there):
        yield f"README.md: the table of folders names {folder}/, which is gone; drop the row"


def environment_is_documented(tree):
    header, document = "base/env.h", "docs/debugging.md"
    read = set(re.findall(r'"(VARVE_[A-Z_]+)"', tree.text(header)))
    text = tree.text(document) if tree.exists(document) else ""
    documented = set(re.findall(r"^\| `(VARVE_[A-Z_]+)", text, re.MULTILINE))
    for variable in sorted(read - documented):
        yield f"{document}: lacks {variable} of {header}; add a row"
    for variable in sorted(documented - read):
        yield f"{document}: names {variable}, which {header} does not; drop the row"
    for name in tree.cpp():
        if name == header or name.startswith("tests/"):
            continue
        for number, line in tree.lines(name):
            if re.search(r'getenv\(\s*"VARVE_', line):
                yield f"{name}:{number}: reads a variable by a name of its own; name it in {header}"


def sources_name_their_licence(tree):
    for name in tree.sources():
        if not any("SPDX-License-Identifier: Apache-2.0" in line for _, line in tree.lines(name)[:3]):
            yield f"{name}: no line 'SPDX-License-Identifier: Apache-2.0' at the top"


def files_are_short(tree):
    for name in tree.sources():
        count = len(tree.lines(name))
        if count > MAX_FILE_LINES:
            yield f"{name}: {count} lines; split it (at most {MAX_FILE_LINES})"


def lines_are_short(tree):
    for name in tree.sources() + tree.named("*.md"):
        fenced = False
        for number, line in tree.lines(name):
            if name.endswith(".md"):
                fenced ^= line.startswith("```")
                if fenced or line.startswith("|") or "://" in line:
                    continue
            limit = MAX_TEXT_LINE if name.endswith(".md") else MAX_LINE
            if len(line) > limit:
                yield f"{name}:{number}: {len(line)} characters; at most {limit}"


def white_space_is_clean(tree):
    for name in tree.sources() + tree.named("*.md", "*.json"):
        text = tree.text(name)
        if text and (not text.endswith("\n") or text.endswith("\n\n")):
            yield f"{name}: must end with one line feed"
        for number, line in tree.lines(name):
            if line != line.rstrip() or "\t" in line:
                yield f"{name}:{number}: trailing white space, or a tab"


def work_left_has_a_number(tree):
    words = "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3))
    for name in tree.sources() + tree.named("*.md"):
        for number, line in tree.lines(name):
            if re.search(rf"\b({words})\b(?!\(#\d+\))", line):
                yield f"{name}:{number}: work left without an issue number"


def top_level_is_small(tree):
    for entry in sorted({f.split("/")[0] for f in tree.files} - TOP_LEVEL):
        yield f"{entry}: does not belong on the top level; put it in the folder of its layer"


def links_lead_somewhere(tree):
    for name in tree.named("*.md"):
        text = re.sub(r"^```.*?^```", "", tree.text(name), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            if not tree.exists(file):
                yield f"{name}: link to {target}: no such file"
            elif anchor and file.endswith(".md") and anchor not in anchors(tree.text(file)):
                yield f"{name}: link to {target}: no such heading"


def anchors(text):
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def build_patterns(tree, name):
    """What a CMakeLists.txt names: literal .cc files and patterns of file(GLOB), relative to the top."""
    folder = os.path.dirname(name)
    text = re.sub(r"#.*", "", tree.text(name)).replace("${CMAKE_CURRENT_SOURCE_DIR}/", "")
    words = re.findall(r"[\w./*${}-]+\.cc\b", text)
    # A variable in the name of a source or a pattern stands for one path component of a foreach() list.
    return [os.path.normpath(os.path.join(folder, re.sub(r"\$\{\w+\}", "*", word))) for word in words]


def every_source_is_built(tree):
    patterns = [p for f in tree.named("CMakeLists.txt", "*.cmake") for p in build_patterns(tree, f)]
    for name in tree.named("*.cc"):
        if not any(fnmatch.fnmatch(name, p) and name.count("/") == p.count("/") for p in patterns):
            yield f"{name}: in no CMakeLists.txt; build it or delete it"


def every_header_is_used(tree):
    used = set()
    for name in tree.cpp():
        for target in re.findall(r'^\s*#\s*include\s+["<]([^">]+)[">]', tree.text(name), re.MULTILINE):
            used |= {target, *nearby(name, target)}
    for name in tree.named("*.h"):
        if name not in used and not name.startswith(PUBLIC_FOLDERS):
            yield f"{name}: included nowhere; delete it"


def scripts_are_sound(tree):
    for name in tree.scripts():
        path, shebang = os.path.join(tree.top, name), tree.shebang(name)
        if bool(shebang) != os.access(path, os.X_OK):
            yield f"{name}: has a '#!' line or is executable, but not both"
        if name.endswith(".py") or "python" in shebang:
            try:
                ast.parse(tree.text(name))
            except SyntaxError as error:
                yield f"{name}:{error.lineno}: {error.msg}"
        elif not name.endswith(".awk"):
            shell = "sh" if re.search(r"\bsh$", shebang) and "bash" not in shebang else "bash"
            result = subprocess.run([shell, "-n", path], capture_output=True, text=True, check=False)
            if result.returncode != 0:
                yield f"{name}: {result.stderr.strip()}"


RULES = [
    includes_go_down, links_go_down, public_headers_include_only_the_standard_library, public_headers_compile_alone,
    readme_names_every_folder, environment_is_documented, sources_name_their_licence, files_are_short, lines_are_short,
    white_space_is_clean, work_left_has_a_number, top_level_is_small, links_lead_somewhere, every_source_is_built,
    every_header_is_used, scripts_are_sound,
]


def check(top):
    tree = Tree(top)
    broken = 0
    for rule in RULES:
        name = "tidy." + rule.__name__
        print(f"[ RUN      ] {name}")
        started = time.monotonic()
        messages = list(rule(tree))
        for message in messages:
            print(f"  {message}")
        broken += bool(messages)
        verdict = "[  FAILED  ]" if messages else "[       OK ]"
        print(f"{verdict} {name} ({int(1000 * (time.monotonic() - started))} ms)", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--self-test":
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        import tidy_self_test
        sys.exit(tidy_self_test.run(Tree, RULES))
    sys.exit(check(os.path.abspath(sys.argv[1])))

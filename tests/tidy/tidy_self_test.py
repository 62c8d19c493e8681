# SPDX-License-Identifier: Apache-2.0
"""Looks whether each tidy rule finds what it forbids: breaks it in a small tree that keeps all of them."""
import os
import tempfile
import time

SPDX = "SPDX-License-Identifier: Apache-2.0\n"

GOOD = {
    "README.md": "# R\n\n| folder | what |\n|---|---|\n" + "".join(
        f"| `{f}/` | x |\n" for f in ("base", "docs", "engine", "storage", "tracker")
    ) + "\n[d](docs/debugging.md#names)\n",
    "docs/debugging.md": "# Names\n\n| `VARVE_LOG` | log |\n",
    "base/CMakeLists.txt": f"# {SPDX}add_library(varve_base log.cc)\n",
    "base/env.h": f'// {SPDX}inline constexpr const char* kLog = "VARVE_LOG";\n',
    "base/log.cc": f'// {SPDX}#include "base/env.h"\n',
    "base/include/varve/result.h": f"// {SPDX}#pragma once\n#include <memory>\n",
    "engine/include/varve/engine.h": f'// {SPDX}#pragma once\n#include "varve/result.h"\n',
    "storage/store.h": f"// {SPDX}",
    "storage/CMakeLists.txt": f"# {SPDX}file(GLOB sources CONFIGURE_DEPENDS *.cc)\n",
    "storage/store.cc": f'// {SPDX}#include "base/env.h"\n#include "storage/store.h"\n#include "varve/result.h"\n',
    "tracker/CMakeLists.txt": f"# {SPDX}target_link_libraries(varve_tracker PUBLIC varve_base)\n",
    "dev": f"#!/usr/bin/env bash\n# {SPDX}true\n",
}

# rule: (file, text) that breaks it; a text of None deletes the file.
BREAKS = {
    "includes_go_down": [
        ("tracker/a.h", f'// {SPDX}#include "storage/store.h"\n'),
        ("base/log.cc", f'// {SPDX}#include "varve/engine.h"\n'),
        ("storage/store.cc", f'// {SPDX}#include "tests/support/x.h"\n'),
        ("storage/store.cc", f'// {SPDX}#include "../base/env.h"\n'),
        ("storage/store.cc", f'// {SPDX}#include "nowhere.h"\n'),
        ("examples/a.cc", f'// {SPDX}#include "engine/capture.h"\n'),
    ],
    "links_go_down": [("tracker/CMakeLists.txt", f"# {SPDX}target_link_libraries(varve_tracker varve_storage)\n")],
    "public_headers_include_only_the_standard_library": [
        ("engine/include/varve/engine.h", f"// {SPDX}#include <liburing.h>\n"),
        ("engine/include/varve/engine.h", f'// {SPDX}#include "base/env.h"\n'),
    ],
    "public_headers_compile_alone": [("engine/include/varve/engine.h", f"// {SPDX}#pragma once\nstd::string x();\n")],
    "readme_names_every_folder": [
        ("README.md", GOOD["README.md"].replace("| `base/` | x |\n", "")),
        ("README.md", GOOD["README.md"].replace("| `base/` |", "| `gone/` | x |\n| `base/` |")),
        ("README.md", None),
    ],
    "environment_is_documented": [
        ("docs/debugging.md", "# Names\n"),
        ("docs/debugging.md", GOOD["docs/debugging.md"] + "| `VARVE_GONE` | x |\n"),
        ("base/log.cc", f'// {SPDX}const char* x = std::getenv("VARVE_NEW");\n'),
    ],
    "sources_name_their_licence": [("base/log.cc", "// nothing\n"), ("dev", "#!/usr/bin/env bash\ntrue\n")],
    "files_are_short": [("base/log.cc", f"// {SPDX}" + "\n" * 600 + "//\n")],
    "lines_are_short": [("base/log.cc", f"// {SPDX}// " + "x" * 118 + "\n")],
    "white_space_is_clean": [("base/log.cc", f"// {SPDX}int x; \n"), ("base/log.cc", f"// {SPDX}int x;")],
    "work_left_has_a_number": [("base/log.cc", f"// {SPDX}// TO" + "DO: more\n")],
    "top_level_is_small": [("notes.txt", "x\n")],
    "links_lead_somewhere": [
        ("docs/debugging.md", GOOD["docs/debugging.md"] + "\n[x](gone.md)\n"),
        ("docs/debugging.md", GOOD["docs/debugging.md"] + "\n[x](../README.md#gone)\n"),
    ],
    "every_source_is_built": [("base/dead.cc", f"// {SPDX}"), ("tracker/dead.cc", f"// {SPDX}")],
    "every_header_is_used": [("base/dead.h", f"// {SPDX}")],
    "scripts_are_sound": [
        ("dev", f"#!/usr/bin/env bash\n# {SPDX}if\n"),
        ("base/tool.py", f"# {SPDX}def\n"),
        ("base/run.sh", f"#!/bin/sh\n# {SPDX}true\n"),  # not executable
    ],
}


def write(top, name, text):
    path = os.path.join(top, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if text is None:
        os.unlink(path)
        return
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    if name == "dev":
        os.chmod(path, 0o755)


def verdict(make_tree, rules, name):
    """What is wrong with one rule: it complains of the good tree, or misses a break."""
    rule = {r.__name__: r for r in rules}[name]
    for number, broken in enumerate([None] + BREAKS[name]):
        with tempfile.TemporaryDirectory() as top:
            for file, text in GOOD.items():
                write(top, file, text)
            if broken:
                write(top, *broken)
            messages = list(rule(make_tree(top)))
        if broken and not messages:
            yield f"misses break {number}: {broken}"
        if not broken and messages:
            yield f"complains of a good tree: {messages}"


def run(make_tree, rules):
    failed = 0
    for rule in rules:
        name = f"tidy_self_test.{rule.__name__}"
        print(f"[ RUN      ] {name}")
        started = time.monotonic()
        messages = list(verdict(make_tree, rules, rule.__name__))
        for message in messages:
            print(f"  {message}")
        failed += bool(messages)
        milliseconds = int(1000 * (time.monotonic() - started))
        print(f"{'[  FAILED  ]' if messages else '[       OK ]'} {name} ({milliseconds} ms)")
    return 1 if failed else 0

# SPDX-License-Identifier: Apache-2.0
"""What both campaigns share: the programs, a scratch directory, and the form of the output that ./dev test sums up."""
import os
import shutil
import subprocess
import sys
import tempfile
import time


class Campaign:
    """One case of a suite: prints as GoogleTest does. Findings fail it; at most some are shown."""

    def __init__(self, case, binaries):
        self.case = "campaign." + case
        self.binaries = binaries
        self.findings = []
        self.began = time.monotonic()
        self.work = tempfile.mkdtemp(prefix="varve-campaign.")
        print(f"[ RUN      ] {self.case}", flush=True)

    def program(self, name):
        return os.path.join(self.binaries, "examples" if name == "gray_scott" else "tools", name)

    def run(self, name, *arguments):
        return subprocess.run([self.program(name), *arguments], capture_output=True, check=False)

    def found(self, *what):
        self.findings.append(" ".join(str(part) for part in what))

    def end(self, summary):
        shutil.rmtree(self.work, ignore_errors=True)
        print(summary)
        for finding in self.findings[:10]:
            print("  " + finding)
        took = int((time.monotonic() - self.began) * 1000)
        print(f"[{'  FAILED  ' if self.findings else '       OK '}] {self.case} ({took} ms)")
        sys.exit(1 if self.findings else 0)

# SPDX-License-Identifier: Apache-2.0
"""A simulation that is killed 200 times, while a compactor (killed, too) and readers work on its store.

After each kill it must go on from the newest image that it had reported, or a newer one; readers never see damage; and
it ends in the state of a run that nobody disturbed.
usage: kill.py BUILD_DIR [KILLS [SEED]]
"""
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter

from common import Campaign

PACE = ["--quiet", "--size", "128", "--every", "10"]
# What a compactor may say while the chain is being written, or before there is anything.
PUT_OFF = ("is being written", "was put off", "no image", "no chain")


def compact(campaign, store, chance, stop, ends):
    while not stop.is_set():
        compactor = subprocess.Popen(
            [campaign.program("chain-compact"), store, "--keep", "8"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if chance.random() < 0.5:
            time.sleep(chance.random() * 0.05)
            compactor.kill()
        said = compactor.communicate()[1]
        ends[compactor.returncode] += 1
        if compactor.returncode not in (0, -9) and not any(words in said for words in PUT_OFF):
            campaign.found("chain-compact:", compactor.returncode, said)
        time.sleep(chance.random() * 0.1)


def read(campaign, store, stop, ends):
    while not stop.is_set():
        verified = campaign.run("varve", "verify", store)
        ends[f"verify {verified.returncode}"] += 1
        if verified.returncode not in (0, 3):
            campaign.found("varve verify:", verified.returncode, verified.stdout, verified.stderr)
        exported = campaign.run("varve", "export", store, "latest", "u")
        ends[f"export {exported.returncode}"] += 1
        if exported.returncode != 0 and b"no image" not in exported.stderr and b"was dropped" not in exported.stderr:
            campaign.found("varve export:", exported.returncode, exported.stderr)
        time.sleep(0.05)


def main():
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 30)
    chance = random.Random(seed)
    campaign = Campaign("kill", sys.argv[1])
    store, said = os.path.join(campaign.work, "store"), os.path.join(campaign.work, "said")
    killed, refused, step, newest, runs = 0, 0, 0, 0, 0
    stop, compactors, readers = threading.Event(), Counter(), Counter()
    threads = [threading.Thread(target=compact, args=(campaign, store, random.Random(seed + 1), stop, compactors)),
               threading.Thread(target=read, args=(campaign, store, stop, readers))]
    while killed < kills:
        with open(said, "w", encoding="utf-8") as output:
            # So far that it does not end by itself.
            program = subprocess.Popen(
                [campaign.program("gray_scott"), *PACE, "--steps", str(step + 1_000_000), "--store", store],
                stdout=output, stderr=subprocess.STDOUT)
            time.sleep(0.05 + chance.random() * 0.5)
            ended = program.poll()
            program.kill()
            program.wait()
        runs += 1
        with open(said, encoding="utf-8") as output:
            text = output.read()
        if ended is not None:
            # A compactor makes images of an idle chain: who starts meanwhile is refused, and says by whom.
            if "is being written by pid" in text:
                refused += 1
            else:
                campaign.found("gray_scott ended:", ended, text)
                break
            continue
        killed += 1
        lines = [line.split() for line in text.split("\n")[:-1]]
        resumed = [int(line[6]) for line in lines if line[:1] == ["resumed"]]
        stored = [(int(line[1]), int(line[3])) for line in lines if line[:1] in (["durable"], ["written"])]
        if newest and resumed and resumed[0] < newest:
            campaign.found(f"seed {seed}, kill {killed}: resumed at step {resumed[0]}, and {newest} was reported")
        if newest and stored and not resumed:
            campaign.found(f"seed {seed}, kill {killed}: it began anew, and step {newest} was reported")
        newest = max(newest, stored[-1][1]) if stored else newest
        step = newest
        if runs == 1:
            for thread in threads:
                thread.start()
    stop.set()
    for thread in threads:
        if thread.ident is not None:
            thread.join()
    # A campaign in which nothing happens passes, too. A short one may meet no moment at which the chain is idle.
    happened = {"image": newest}
    if kills >= 100:
        happened |= {"compaction": compactors[0], "read": readers["export 0"]}
    for what, count in happened.items():
        if count == 0:
            campaign.found(f"seed {seed}: there was no {what}")
    compacted = campaign.run("chain-compact", store, "--keep", "8")
    if compacted.returncode != 0:
        campaign.found("chain-compact of the idle chain:", compacted.returncode, compacted.stderr)
    last = ["--steps", str(newest + 100), "--out"]
    for name, more in (("resumed", ["--store", store]), ("plain", [])):
        done = campaign.run("gray_scott", *PACE, *last, os.path.join(campaign.work, name), *more)
        if done.returncode != 0:
            campaign.found(name, done.stderr)
    if not campaign.findings:
        with open(os.path.join(campaign.work, "resumed"), "rb") as one, \
                open(os.path.join(campaign.work, "plain"), "rb") as other:
            if one.read() != other.read():
                campaign.found(f"seed {seed}: the final states differ")
        verified = campaign.run("varve", "verify", "--deep", store)
        if verified.returncode != 0:
            campaign.found("varve verify after the end:", verified.returncode, verified.stdout)
    campaign.end(f"seed {seed}: {killed} kills of the program, {refused} refusals beside a compactor, step {newest}; "
                 f"compactor's exit statuses {dict(compactors)}; readers' {dict(readers)}")


main()

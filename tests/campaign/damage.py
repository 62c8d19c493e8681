# SPDX-License-Identifier: Apache-2.0
"""Files of a real store are damaged 10,000 times: bits, blocks, lengths, blocks of another place.

Each time `varve verify --deep` and `varve export` of some images run: what is exported is right, or refused; what
verify calls good can be exported.
usage: damage.py BUILD_DIR [TIMES [SEED]]
"""
import os
import random
import sys
from collections import Counter

from common import Campaign


def damaged(old, chance):
    """Some other content; equal to `old` at times."""
    new, kind = bytearray(old), chance.random()
    at = chance.randrange(len(new))
    if kind < 0.6:
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            new[chance.randrange(len(new))] ^= 1 << chance.randrange(8)
    elif kind < 0.75:
        del new[at:]
    elif kind < 0.8:
        new += chance.randbytes(chance.choice((1, 512, 4096)))
    elif kind < 0.9:
        new[at:at + chance.choice((512, 4096))] = chance.randbytes(min(512, len(new) - at))
    else:
        source = chance.randrange(len(new))
        block = old[source:source + 512]
        new[at:at + len(block)] = block
        del new[len(old):]
    return bytes(new)


def main():
    times = int(sys.argv[2]) if len(sys.argv) > 2 else 10000
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 30)
    chance = random.Random(seed)
    campaign = Campaign("damage", sys.argv[1])
    store = os.path.join(campaign.work, "store")
    for life in range(1, 7):
        campaign.run("gray_scott", "--quiet", "--size", "64", "--every", "20", "--steps", str(40 * life),
                     "--store", store)
    listed = campaign.run("varve", "list", store).stdout.decode().split("\n")[1:]
    images = [line.split()[0] for line in listed if line.strip() and line.split()[0].isdigit()]
    truth = {image: campaign.run("varve", "export", store, image, "u").stdout for image in images}
    if len(images) != 12 or len(set(truth.values())) != 12:
        campaign.found("the store has not the 12 images that it was made with")
        campaign.end("nothing was tried")
    files = [os.path.join(place, name) for place, _, names in os.walk(store) for name in names]
    files = [path for path in files if os.path.getsize(path) > 0]
    ends = Counter()
    for turn in range(times):
        path = chance.choices(files, [os.path.getsize(one) for one in files])[0]
        with open(path, "rb") as file:
            old = file.read()
        new = damaged(old, chance)
        if new == old:
            ends["the same"] += 1
            continue
        where = f"seed {seed}, damage {turn}, {os.path.basename(path)}:"
        status = os.stat(path)
        with open(path, "wb") as file:
            file.write(new)
        verified = campaign.run("varve", "verify", "--deep", store)
        ends[f"verify {verified.returncode}"] += 1
        if verified.returncode not in (0, 1, 3):
            campaign.found(where, "varve verify", verified.returncode, verified.stderr)
        for image in [*chance.sample(images, 3), "latest"]:
            exported = campaign.run("varve", "export", store, image, "u")
            ends[f"export {exported.returncode}"] += 1
            # A damaged newest image may not be listed any more, but never where nothing is found wrong.
            newest = truth.values() if verified.returncode != 0 else (truth[images[-1]],)
            right = newest if image == "latest" else (truth[image],)
            if exported.returncode == 0 and exported.stdout not in right:
                campaign.found(where, "wrong bytes of image", image)
            elif exported.returncode not in (0, 1):
                campaign.found(where, "varve export", image, exported.returncode, exported.stderr)
            elif exported.returncode == 1 and verified.returncode == 0:
                campaign.found(where, "verify finds nothing, and export fails", image, exported.stderr)
        with open(path, "wb") as file:
            file.write(old)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    campaign.end(f"seed {seed}: {times} damages of {len(files)} files of {len(images)} images; exit statuses "
                 f"{dict(ends)}")


main()

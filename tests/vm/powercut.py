#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A disk with a volatile write cache, for testing what a power cut leaves behind.

serve    offers an image file as a block device over NBD (unix socket). Writes go
         to a log and to a private view; the image file itself does not change
         until the end. A write counts as durable only when a flush that was
         issued after the write's acknowledgement has been acknowledged, or when
         it carried FUA. SIGUSR1 is the power cut: no request is answered any
         more, and the image becomes what the chosen loss mode lets survive.
         SIGTERM (or the client's leaving, with --once) ends the session under
         the same rule. With --keep-log the image stays as it was and the log is
         left for `image`.
         Lines that come in on the --marks pipe are logged between the writes, so
         that a program under test can say what it holds to be durable by now.
info     prints how many writes, flushes, FUA writes and marks a log holds.
image    builds the disk as it would be found after a cut behind any one log
         entry: record one run, then test every point of it. --marks FILE gets
         the marks that came before the cut.

Loss modes, for the writes that are not durable at the cut:
  drop     all are lost
  random   each write is kept or lost as a whole
  torn     each sector of each write is kept or lost
  keep     all survive (a crash of the machine, not of its disk)
"""
import argparse, os, random, select, signal, socket, struct, subprocess, sys

ENTRY = struct.Struct("<4sIQQQ")        # kind, flags, offset, length, covers
WRITE, ZERO, FLUSH, MARK = b"WRIT", b"ZERO", b"FLSH", b"MARK"
FUA = 1


def copy_sparse(src, dst):
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", "--", src, dst], check=True)


def read_log(path):
    """Yields (kind, flags, offset, length, covers, position of the data); a torn tail ends it."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        pos = 0
        while pos + ENTRY.size <= size:
            f.seek(pos)
            kind, flags, off, length, covers = ENTRY.unpack(f.read(ENTRY.size))
            pos += ENTRY.size
            data = pos
            if kind in (WRITE, MARK):
                pos += length
                if pos > size:
                    return
            yield kind, flags, off, length, covers, data


def materialize(log, image, loss, seed, sector, at=None):
    """Applies to image what survives a cut behind log entry number `at` (all, if None)."""
    entries = []
    durable = 0                          # writes numbered below this are durable
    number = 0
    for index, e in enumerate(read_log(log)):
        if at is not None and index >= at:
            break
        if e[0] == FLUSH:
            durable = max(durable, e[4])
        elif e[0] != MARK:
            entries.append((number, e))
            number += 1
    rng = random.Random(seed)
    kept = lost = 0
    with open(log, "rb") as lf, open(image, "r+b", buffering=0) as out:
        fd = out.fileno()
        for number, (kind, flags, off, length, _, pos) in entries:
            data = os.pread(lf.fileno(), length, pos) if kind == WRITE else bytes(length)
            if number < durable or flags & FUA or loss == "keep":
                os.pwrite(fd, data, off)
            elif loss == "drop":
                lost += length
            elif loss == "random":
                if rng.random() < 0.5:
                    os.pwrite(fd, data, off)
                    kept += length
                else:
                    lost += length
            else:
                at_byte = 0
                while at_byte < length:
                    step = min(sector - (off + at_byte) % sector, length - at_byte)
                    if rng.random() < 0.5:
                        os.pwrite(fd, data[at_byte:at_byte + step], off + at_byte)
                        kept += step
                    else:
                        lost += step
                    at_byte += step
    volatile = sum(1 for n, e in entries if n >= durable and not e[1] & FUA)
    return {"writes": len(entries), "volatile_writes": volatile,
            "volatile_bytes_kept": kept, "volatile_bytes_lost": lost}


class Cut(Exception):
    pass


class Server:
    def __init__(self, image, log, view, marks):
        self.size = os.path.getsize(image)
        copy_sparse(image, view)
        self.view = os.open(view, os.O_RDWR)
        os.unlink(view)
        self.log = open(log, "wb", buffering=0)
        self.acked = 0                   # writes whose reply has been sent
        self.marks = os.open(marks, os.O_RDWR | os.O_NONBLOCK) if marks else -1
        self.mark = b""                  # an unfinished line of it

    def take_marks(self):
        while True:
            try:
                data = os.read(self.marks, 1 << 16)
            except BlockingIOError:
                return
            self.mark += data
            end = self.mark.rfind(b"\n") + 1
            if end:
                self.log.write(ENTRY.pack(MARK, 0, 0, end, 0) + self.mark[:end])
                self.mark = self.mark[end:]

    def handshake(self, c):
        c.sendall(struct.pack(">QQH", 0x4e42444d41474943, 0x49484156454f5054, 3))
        no_zeroes = struct.unpack(">I", self.take(c, 4))[0] & 2
        flags = 1 | 4 | 8 | 64           # has-flags, flush, FUA, write-zeroes
        while True:
            _, option, length = struct.unpack(">QII", self.take(c, 16))
            data = self.take(c, length) if length else b""

            def reply(kind, body=b""):
                c.sendall(struct.pack(">QIII", 0x3e889045565a9, option, kind, len(body)) + body)
            if option == 1:              # EXPORT_NAME
                c.sendall(struct.pack(">QH", self.size, flags) + (b"" if no_zeroes else bytes(124)))
                return True
            if option == 2:              # ABORT
                reply(1)
                return False
            if option == 3:              # LIST
                reply(2, struct.pack(">I", 0))
                reply(1)
            elif option in (6, 7):       # INFO, GO
                reply(3, struct.pack(">HQH", 0, self.size, flags))
                reply(3, struct.pack(">HIII", 3, 1, 4096, 32 << 20))
                reply(1)
                if option == 7:
                    return True
            else:
                reply(0x80000001)        # unsupported

    @staticmethod
    def take(c, n):
        parts = []
        while n:
            b = c.recv(min(n, 1 << 20))
            if not b:
                raise EOFError
            parts.append(b)
            n -= len(b)
        return b"".join(parts)

    def serve(self, c):
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        if not self.handshake(c):
            return
        queue = []                       # requests read, each with the writes acknowledged by then
        while True:
            # Read everything that has already been sent before acknowledging any
            # more: those requests were issued without knowledge of later replies.
            while True:
                inputs = [c] if self.marks < 0 else [c, self.marks]
                ready = select.select(inputs, [], [], 0 if queue else None)[0]
                if self.marks in ready:
                    self.take_marks()
                if c not in ready:
                    if queue:
                        break
                    continue
                try:
                    _, flags, cmd, handle, off, length = struct.unpack(">IHHQQI", self.take(c, 28))
                except EOFError:
                    return
                data = self.take(c, length) if cmd == 1 and length else b""
                queue.append((flags, cmd, handle, off, length, data, self.acked))
                if len(queue) >= 256:
                    break
            flags, cmd, handle, off, length, data, covers = queue.pop(0)
            error, body = 0, b""
            if cmd == 2:
                return
            if cmd in (0, 1, 6) and off + length > self.size:
                error = 28 if cmd else 22
            elif cmd == 0:
                body = os.pread(self.view, length, off)
                body += bytes(length - len(body))
            elif cmd == 1 or cmd == 6:
                if cmd == 6:
                    data = bytes(length)
                os.pwrite(self.view, data, off)
                head = ENTRY.pack(WRITE if cmd == 1 else ZERO, flags & FUA, off, length, covers)
                self.log.write(head + data if cmd == 1 else head)
            elif cmd == 3:
                self.log.write(ENTRY.pack(FLUSH, 0, 0, 0, covers))
            else:
                error = 22
            c.sendall(struct.pack(">IIQ", 0x67446698, error, handle) + body)
            if cmd in (1, 6) and not error:
                self.acked += 1


def serve(a):
    def stop(signum, frame):
        raise Cut()
    server = Server(a.image, a.log, a.image + ".view.%d" % os.getpid(), a.marks)
    listener = socket.socket(socket.AF_UNIX)
    if os.path.exists(a.socket):
        os.unlink(a.socket)
    signal.signal(signal.SIGUSR1, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        listener.bind(a.socket)
        listener.listen(1)
        while True:
            c, _ = listener.accept()
            try:
                server.serve(c)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                pass
            c.close()
            if a.once:
                break
    except Cut:
        pass
    for s in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(s, signal.SIG_IGN)
    server.log.close()
    if not a.keep_log:
        result = materialize(a.log, a.image, a.loss, a.seed, a.sector)
        os.unlink(a.log)
        print("powercut: loss=%s seed=%d " % (a.loss, a.seed) +
              " ".join("%s=%d" % kv for kv in result.items()), file=sys.stderr, flush=True)
    os._exit(0)


def info(a):
    n = writes = flushes = fua = size = marks = 0
    for kind, flags, _, length, _, _ in read_log(a.log):
        n += 1
        if kind == FLUSH:
            flushes += 1
        elif kind == MARK:
            marks += 1
        else:
            writes += 1
            fua += flags & FUA
            size += length
    print("entries=%d writes=%d fua=%d flushes=%d marks=%d bytes=%d" % (n, writes, fua, flushes, marks, size))


def image(a):
    copy_sparse(a.base, a.out)
    result = materialize(a.log, a.out, a.loss, a.seed, a.sector, a.at)
    print(" ".join("%s=%d" % kv for kv in result.items()))
    if a.marks:
        with open(a.log, "rb") as log, open(a.marks, "wb") as out:
            for index, (kind, _, _, length, _, pos) in enumerate(read_log(a.log)):
                if a.at is not None and index >= a.at:
                    break
                if kind == MARK:
                    out.write(os.pread(log.fileno(), length, pos))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="what", required=True)

    def common(q):
        q.add_argument("--loss", choices=("drop", "random", "torn", "keep"), default="drop")
        q.add_argument("--seed", type=int, default=1)
        q.add_argument("--sector", type=int, default=512, help="bytes the disk writes atomically (torn)")
    q = sub.add_parser("serve")
    q.add_argument("--image", required=True)
    q.add_argument("--socket", required=True)
    q.add_argument("--log", required=True)
    q.add_argument("--marks", help="a named pipe")
    q.add_argument("--keep-log", action="store_true")
    q.add_argument("--once", action="store_true", help="end when the client leaves")
    common(q)
    q = sub.add_parser("info")
    q.add_argument("log")
    q = sub.add_parser("image")
    q.add_argument("--base", required=True)
    q.add_argument("--log", required=True)
    q.add_argument("--out", required=True)
    q.add_argument("--marks", help="a file to write")
    q.add_argument("--at", type=int, help="cut behind this many log entries (default: all)")
    common(q)
    a = p.parse_args()
    {"serve": serve, "info": info, "image": image}[a.what](a)


if __name__ == "__main__":
    main()

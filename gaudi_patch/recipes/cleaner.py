"""The text of clean.py, which keeps LMCache's chunks below a size. It needs only the standard library."""

from __future__ import annotations

NAME = "clean.py"

SCRIPT = '''\
"""Remove the oldest chunks from LMCache's directory until the rest fits.

Written by gaudi-patch recipe. Run it from a timer, on one host: `clean.py DIR --keep-gb GB`. An engine recomputes a
chunk that it was promised and that is removed. Temporary files of killed engines and servers are removed after a day.
"""

import argparse
import os
import sys
import time

DAY = 24 * 3600


def chunks(folder):
    """Yield (modification time, bytes, path) of every chunk, damaged or not; remove partial files of killed engines."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                continue
            half = name.endswith(".tmp") or os.path.basename(where).split("-")[0] == "tmp"
            if half and found.st_mtime < time.time() - DAY:
                removed(path)
            elif not half and name.endswith((".data", ".data.damaged")):
                yield found.st_mtime, found.st_size, path


def removed(path):
    """Remove a file; return False if another run has already removed it."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split(chr(10), 1)[0])
    parser.add_argument("folder")
    parser.add_argument("--keep-gb", type=float, required=True)
    given = parser.parse_args()
    if not 0 < given.keep_gb < float("inf"):
        sys.exit("--keep-gb %s is not a valid size: nothing was removed" % given.keep_gb)
    if not os.path.isdir(given.folder):
        sys.exit("%s is not a directory, so nothing was removed: is the share mounted?" % given.folder)
    found = sorted(chunks(given.folder))
    size, limit, gone = sum(bytes_ for _, bytes_, _ in found), given.keep_gb * 1024**3, 0
    before = size
    for _, bytes_, path in found:
        if size <= limit:
            break
        gone += removed(path)
        size -= bytes_
    print("removed %d of %d chunks: %.1f of %.1f GB are left" % (gone, len(found), size / 1024**3, before / 1024**3))


if __name__ == "__main__":
    main()
'''

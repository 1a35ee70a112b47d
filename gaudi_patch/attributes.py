"""Extended attributes of an open file: a user's own, the access ACL, and SELinux's label; no others are carried over.

Privileges of a file (capabilities, IMA) were granted to its old bytes, and are not carried over to new ones.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable

ACL = "system.posix_acl_access"
LABEL = "security.selinux"


def read(descriptor: int) -> tuple[tuple[str, bytes], ...]:
    """Return the user attributes and the access ACL of an open file, sorted."""
    try:
        names = [name for name in os.listxattr(descriptor) if name == ACL or name.startswith("user.")]
        return tuple((name, os.getxattr(descriptor, name)) for name in sorted(names))
    except OSError:  # file systems and containers differ in what they store and permit
        return ()


def put(descriptor: int, attributes: Iterable[tuple[str, bytes]], kind: str) -> None:
    """Set the ``attributes`` whose name begins with ``kind``, as far as supported and permitted."""
    for name, value in attributes:
        if name.startswith(kind):
            try:
                os.setxattr(descriptor, name, value)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
                    raise


def take_off(descriptor: int) -> None:
    """Remove the access ACL that a new file inherits from its directory's default."""
    with contextlib.suppress(OSError):
        os.removexattr(descriptor, ACL)


def copy_label(source: int, descriptor: int) -> None:
    """Copy the SELinux label from one open file to another, if present and permitted."""
    with contextlib.suppress(OSError):
        os.setxattr(descriptor, LABEL, os.getxattr(source, LABEL))

"""Give a finished file its name unless that is taken, in one step of the file system."""

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NO_SUCH_RENAME = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def name_exclusively(temporary: Path, path: Path) -> bool:
    """Name a file unless there is one of that name; return whether it was this call.

    By a hard link, which is atomic on every POSIX file system that has them, NFS included. Where there are
    none (exFAT, some FUSE and cluster mounts), by Linux's ``renameat2`` with ``RENAME_NOREPLACE``; the
    temporary is gone then.

    Raises:
        OSError: Neither can be had (EOPNOTSUPP), or what else the system says.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename_exclusively(temporary, path, error)
    return True


def _rename_exclusively(temporary: Path, path: Path, no_link: OSError) -> bool:
    """Rename a file unless there is one of that name. Raises ``no_link`` where that cannot be had either."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise no_link
    names = (os.fsencode(temporary), os.fsencode(path))
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    if number in _NO_SUCH_RENAME:
        raise no_link
    raise OSError(number, os.strerror(number), os.fspath(path))

"""What to do about an error of the operating system."""

import errno

REMEDIES = {
    errno.ENOSPC: "make room and run the same command again: what was computed is kept",
    errno.EDQUOT: "make room and run the same command again: what was computed is kept",
    errno.EROFS: "choose a folder on a file system that can be written to",
    errno.EACCES: "choose a place that you may read and write, or change its permissions",
    errno.EPERM: "choose a place that you may read and write, or change its permissions",
    errno.EISDIR: "name a file, this is a folder",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away, or choose another folder",
    errno.EEXIST: "a file stands where a folder is needed: move it away, or choose another folder",
    errno.ENOENT: "check the path, its folder must exist",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def with_remedy(error: OSError) -> str:
    """Return what failed, on which path, and what to do, in one line."""
    what = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
    remedy = REMEDIES.get(error.errno or 0)
    return f"{what}; {remedy}" if remedy else what

"""Where something lies: a path of this machine, or the URL of an object store."""

import os
import re

SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
"""Of object stores: Amazon's S3 and what speaks it, Google Cloud Storage, Azure Blob Storage."""
KINDS = "a local path, or s3://, gs:// or az://"

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(place: str) -> str | None:
    """Return the scheme of a URL, in lower case; None for a path."""
    match = _URL.match(place)
    return match[1].lower() if match else None


def is_object_url(place: str) -> bool:
    """Return whether a place is the URL of an object store, a bucket's or a name's in it."""
    return scheme_of(place) in SCHEMES


def split_url(url: str) -> tuple[str, str]:
    """Return the bucket of an object store's URL, as a URL, and the name in it; the latter may be empty.

    Repeated slashes and one at the end are taken away: no object's name has an empty part here.

    Raises:
        ValueError: It names no bucket, or its name has a part that no object can have.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, name = rest.partition("/")
    parts = [part for part in name.split("/") if part]
    if not bucket:
        raise ValueError(f"{url!r} names no bucket")
    if {".", ".."} & {*parts} or not name.isprintable():
        raise ValueError(f"{url!r} is no name of an object: '.', '..' and control characters are not read")
    return f"{scheme.lower()}://{bucket}", "/".join(parts)


def join(place: str, name: str) -> str:
    """Return the place of a name below another place."""
    return f"{place.rstrip('/')}/{name}" if name else place


def absolute(place: str) -> str:
    """Return a place as it is called from anywhere: a path from the root, a URL without a last slash."""
    return place.rstrip("/") if is_object_url(place) else os.path.abspath(place)


def lies_in(place: str, folder: str) -> bool:
    """Return whether a place is a folder, or below it; links of this machine are followed."""
    if is_object_url(place) or is_object_url(folder):
        return f"{absolute(place)}/".startswith(f"{absolute(folder)}/")
    real, root = os.path.realpath(place), os.path.realpath(folder)
    return os.path.commonpath([root, real]) == root

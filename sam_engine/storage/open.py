"""Which store a place is: a directory of this machine, or a name in a bucket."""

import os
from pathlib import Path

from sam_engine.errors import ConfigError
from sam_engine.storage.local import LocalStore
from sam_engine.storage.object_store import ObjectStore
from sam_engine.storage.place import KINDS, is_object_url, join, scheme_of, split_url
from sam_engine.storage.store import Store


def open_store(place: str | Path) -> Store:
    """Return the store that a place names. Nothing is created or asked yet.

    Raises:
        ConfigError: It is neither a directory, or nothing yet, nor the URL of an object store.
    """
    text = os.fspath(place)
    if is_object_url(text):
        try:
            return ObjectStore(join(*split_url(text)))
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if scheme_of(text) is not None:
        raise ConfigError(f"{text!r} is a URL of a kind that holds no datasets; give {KINDS}")
    root = Path(text)
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{text!r} is a file; give a directory")
    return LocalStore(root)

"""What a place says by its spelling alone."""

import pytest

from sam_engine.errors import ConfigError
from sam_engine.storage.local import LocalStore
from sam_engine.storage.object_store import ObjectStore
from sam_engine.storage.open import open_store


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("s3://bucket", "s3://bucket"),
        ("S3://bucket/a/", "s3://bucket/a"),
        ("gs://bucket/a//b", "gs://bucket/a/b"),
        ("az://container/a b", "az://container/a b"),
        (
            "abfs://container@account.dfs.core.windows.net/a",
            "abfs://container@account.dfs.core.windows.net/a",
        ),
    ],
)
def test_urls_of_object_stores_are_stores(place, url):
    """One place has one spelling."""
    assert open_store(place) == ObjectStore(url)


@pytest.mark.parametrize("place", ["out", "./s3:/x", "s3", "a:b", "/x/s3:"])
def test_paths_are_directories(place):
    """Only ``scheme://`` makes a URL."""
    assert open_store(place) == LocalStore(place)


@pytest.mark.parametrize("place", ["https://host/x", "hf://datasets/a/b", "ftp://x", "file:///x"])
def test_urls_of_other_kinds_are_refused(place):
    """They are not taken for a folder of that name."""
    with pytest.raises(ConfigError, match="s3://, gs:// or az://"):
        open_store(place)


@pytest.mark.parametrize("place", ["s3://", "s3:///a", "s3://b/../c", "s3://b/./c", "s3://b/a\nb"])
def test_urls_without_a_bucket_or_with_odd_parts_are_refused(place):
    """No object could have such a name."""
    with pytest.raises(ConfigError, match=r"names no bucket|no name of an object"):
        open_store(place)


def test_a_file_is_no_store(tmp_path):
    """An output that is a file is named as such."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ConfigError, match="is a file; give a directory"):
        open_store(tmp_path / "file")

"""ONNX Runtime Web: only the pinned tarball is unpacked, and all of what is needed or nothing."""

import base64
import hashlib
import io
import tarfile

import pytest

from sam_engine.errors import ConfigError
from sam_engine.web import runtime
from sam_engine.web.runtime import FILES, fetch_runtime, find_runtime, unpack_runtime


def tarball(names=FILES, more=()):
    """A tarball of npm's form, and its integrity."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name in [f"package/dist/{name}" for name in names] + list(more):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    digest = base64.b64encode(hashlib.sha512(data.getvalue()).digest()).decode()
    return data.getvalue(), f"sha512-{digest}"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_pinned_tarball_is_unpacked(tmp_path):
    """The files a page needs, and no others, wherever those would like to be."""
    data, integrity = tarball(more=["package/LICENSE", "../../evil", "package/dist/../../../evil"])
    assert find_runtime() is None
    unpack_runtime(data, runtime.runtime_folder(), integrity)

    folder = runtime.runtime_folder()
    assert find_runtime() == folder
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert list(folder.parent.iterdir()) == [folder]
    assert not list(tmp_path.rglob("evil"))


def test_another_tarball_is_refused(tmp_path):
    """A byte more is another; nothing is left of it."""
    data, _ = tarball()
    (tmp_path / "other.tgz").write_bytes(data)

    with pytest.raises(ConfigError, match=r"has integrity sha512-.* instead of sha512-q0y"):
        fetch_runtime(str(tmp_path / "other.tgz"))
    assert not (tmp_path / "cache").exists()


def test_what_is_not_there_is_named(tmp_path):
    """With what would do."""
    with pytest.raises(ConfigError, match=r"absent\.tgz cannot be had: .*npm pack onnxruntime-web@"):
        fetch_runtime(str(tmp_path / "absent.tgz"))


def test_more_than_a_tarball_may_have_is_not_read(tmp_path, monkeypatch):
    """An endless answer ends at the limit."""
    monkeypatch.setattr(runtime, "MAX_TARBALL_BYTES", 10)
    (tmp_path / "long.tgz").write_bytes(bytes(11))

    with pytest.raises(ConfigError, match="more than 10 bytes"):
        fetch_runtime(str(tmp_path / "long.tgz"))


def test_what_is_there_is_not_fetched_again():
    """Whatever the source."""
    data, integrity = tarball()
    unpack_runtime(data, runtime.runtime_folder(), integrity)

    assert fetch_runtime("nowhere") == runtime.runtime_folder()


def test_a_folder_that_lost_a_file_is_made_anew():
    """It counts as absent, and is replaced."""
    data, integrity = tarball()
    unpack_runtime(data, runtime.runtime_folder(), integrity)
    (runtime.runtime_folder() / FILES[0]).unlink()
    assert find_runtime() is None
    unpack_runtime(data, runtime.runtime_folder(), integrity)

    assert find_runtime() is not None

"""Files appear whole or not at all."""

import pytest

from sam_engine.files import new_path, write_atomically


def test_a_file_is_written_whole_with_its_folder(tmp_path):
    """Text is UTF-8, and no part is left."""
    path = tmp_path / "a" / "b.txt"

    write_atomically(path, "ä\n")

    assert path.read_bytes() == "ä\n".encode()
    assert [each.name for each in path.parent.iterdir()] == ["b.txt"]


def test_a_failure_leaves_what_was_there(tmp_path):
    """An exception while writing changes nothing and leaves no part."""
    path = tmp_path / "a.txt"
    write_atomically(path, b"before")

    def fail():
        with new_path(path) as part:
            part.write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]

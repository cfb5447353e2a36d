"""The house stays one that can be read: no long files, and few at the top."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_no_file_is_longer_than_400_lines():
    """Of the library, its pages, the programs and the tests."""
    folders = ("sam_engine", "pipelines", "tools", "tests")
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_bytes().splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".js", ".css")
    }

    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_the_top_of_the_library_has_at_most_12_files():
    """What is more than a name or a base of all goes to a room."""
    files = [path.name for path in (ROOT / "sam_engine").iterdir() if path.is_file()]

    assert len(files) <= 12, sorted(files)

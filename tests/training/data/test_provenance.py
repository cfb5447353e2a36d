"""What a packed file was made of is known by its content, whatever names it."""

from pathlib import Path

from sam_engine.training.data.provenance import digest_of


def test_what_a_range_of_tars_matches_is_part_of_the_digest(tmp_path: Path):
    """Another tar of the range, or another content, is other data."""
    place = tmp_path / "sa_{0..1}.tar"
    (tmp_path / "sa_0.tar").write_bytes(b"zero")
    first = digest_of(place)
    (tmp_path / "sa_1.tar").write_bytes(b"one")
    second = digest_of(place)
    (tmp_path / "sa_1.tar").write_bytes(b"other")

    assert len({first, second, digest_of(place), None}) == 4
    assert digest_of(tmp_path / "sa_*.tar") == digest_of(place)
    assert digest_of(tmp_path / "x_*.tar") is None

"""Embeddings on disk: found again, never beyond the limit, and whole whoever else writes."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sam_engine.errors import ConfigError
from sam_engine.modeling.embedding_file import embedding_from_bytes, embedding_to_bytes
from sam_engine.modeling.segmenter import ImageEmbedding
from sam_engine.storage.embedding_cache import MAX_AGE_OF_PARTS_S, EmbeddingCache, EmbeddingKey

KEY = EmbeddingKey(image_sha256="ab" * 32, weights="cd" * 32)


def keys(count: int) -> list[EmbeddingKey]:
    return [replace(KEY, image_sha256=f"{number:064x}") for number in range(count)]


def age(cache: EmbeddingCache, key: EmbeddingKey, seconds: float) -> None:
    """Have a file last been used so long ago."""
    path = cache.folder / key.file_name
    os.utime(path, (path.stat().st_mtime - seconds,) * 2)


def test_what_was_put_is_found(tmp_path: Path) -> None:
    """By another cache of the same folder, too; another key has nothing."""
    EmbeddingCache(tmp_path).put(KEY, b"abc")

    assert EmbeddingCache(tmp_path).get(KEY) == b"abc"
    assert [path.name for path in tmp_path.iterdir()] == [KEY.file_name]


@pytest.mark.parametrize(
    "other", [{"image_sha256": "00" * 32}, {"weights": "x"}, {"precision": "fp16"}, {"view": "p1-p99"}]
)
def test_all_that_an_embedding_depends_on_is_in_its_name(tmp_path: Path, other: dict[str, str]) -> None:
    """The same photo with other weights is another embedding."""
    cache = EmbeddingCache(tmp_path)
    cache.put(KEY, b"abc")

    assert cache.get(replace(KEY, **other)) is None


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    """Also of what was put before; a look counts as use."""
    cache = EmbeddingCache(tmp_path, max_bytes=30)
    first, second, third, fourth = keys(4)
    for number, key in enumerate((first, second, third)):
        cache.put(key, bytes(10))
        age(cache, key, 100 - number)
    assert cache.get(first) is not None
    cache.put(fourth, bytes(10))

    assert [cache.get(key) is not None for key in (first, second, third, fourth)] == [True, False, True, True]


def test_what_a_killed_process_left_goes_in_time(tmp_path: Path) -> None:
    """A part of an hour ago is nobody's; one of now may be another server's."""
    cache = EmbeddingCache(tmp_path)
    cache.put(KEY, b"abc")
    old, new = tmp_path / "a.embedding.1.part", tmp_path / "b.embedding.2.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (old.stat().st_mtime - 2 * MAX_AGE_OF_PARTS_S,) * 2)
    cache.put(KEY, b"abc")

    assert not old.exists()
    assert new.exists()


def test_two_servers_may_use_one_folder(tmp_path: Path) -> None:
    """Eight writers of few keys in too little room: whatever is read is what somebody put, whole."""
    caches = [EmbeddingCache(tmp_path, max_bytes=400_000) for _ in range(8)]
    used = keys(4)

    def use(cache: EmbeddingCache) -> list[bytes]:
        read = []
        for turn in range(40):
            key = used[turn % len(used)]
            cache.put(key, key.image_sha256.encode() * 2000)
            read.append(cache.get(key) or b"")
        return read

    with ThreadPoolExecutor(8) as pool:
        answers = {answer for read in pool.map(use, caches) for answer in read if answer}

    assert answers <= {key.image_sha256.encode() * 2000 for key in used}
    assert not list(tmp_path.glob("*.part"))


def embedding(features: torch.Tensor) -> ImageEmbedding:
    skips = torch.ones(1, 1, 8, 8), torch.full((1, 2, 4, 4), -0.25)
    return ImageEmbedding(
        features=features, skip_features=skips, input_size=(30, 64), original_size=(300, 640)
    )


def test_half_the_bytes_give_nearly_the_same() -> None:
    """Maps in float16, sizes as they were."""
    whole = embedding(torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0)))
    data = embedding_to_bytes(whole, in_half=True)
    found = embedding_from_bytes(data)

    assert len(data) < 0.6 * len(embedding_to_bytes(whole))
    assert found.features.dtype == torch.float16
    assert torch.allclose(found.features.float(), whole.features, atol=2e-3)
    assert (found.input_size, found.original_size) == ((30, 64), (300, 640))
    assert found.skip_features is not None
    assert torch.equal(found.skip_features[1].float(), torch.full((1, 2, 4, 4), -0.25))


def test_values_beyond_half_stay_as_they_are() -> None:
    """Infinity would be another embedding."""
    found = embedding_from_bytes(embedding_to_bytes(embedding(torch.full((1, 4, 2, 2), 1e5)), in_half=True))

    assert torch.equal(found.features, torch.full((1, 4, 2, 2), 1e5))


@pytest.mark.parametrize("data", [b"", b"x" * 100, (2).to_bytes(8, "little") + b"{}"])
def test_other_bytes_are_no_embedding(data: bytes) -> None:
    """They are named as such."""
    with pytest.raises(ConfigError, match="embedding"):
        embedding_from_bytes(data)

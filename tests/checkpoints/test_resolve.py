"""Checkpoints by name, path and URL: found, downloaded, verified, loaded."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from sam_engine.catalogue import ARCHITECTURES, MODELS, Release
from sam_engine.checkpoints import download, resolve
from sam_engine.checkpoints.resolve import Checkpoint, resolve_checkpoint
from sam_engine.config import ModelConfig
from sam_engine.errors import CheckpointError, ConfigError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of torch.hub, and no waiting between tries."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setattr(download, "RETRY_DELAYS_S", (0.0, 0.0))
    return tmp_path / "torch_home" / "hub" / "checkpoints"


class Server(ThreadingHTTPServer):
    """Serves one file under every path, and misbehaves on request."""

    content = b""
    drop_after: list[int]
    """For the next requests: break the connection after so many bytes."""
    errors: list[int]
    """For the next requests: answer with these codes."""
    ranges: list[str | None]
    """The Range headers that were sent."""
    honours_ranges = True

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers GET for `Server`."""

    server: Server

    def do_GET(self) -> None:
        """Send the content, or what is left of it."""
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        if self.server.errors:
            self.send_error(self.server.errors.pop(0))
            return
        start = 0
        if wanted and self.server.honours_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(self.server.content):
                self.send_error(416)
                return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.drop_after.pop(0)] if self.server.drop_after else body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tiny_bytes: bytes) -> Iterator[Server]:
    """A server of ``tiny_bytes`` on this machine."""
    server = Server(("127.0.0.1", 0), Handler)
    server.content, server.drop_after, server.errors, server.ranges = tiny_bytes, [], [], []
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def digest_of(content: bytes) -> str:
    """Return the sha256 in hex."""
    return hashlib.sha256(content).hexdigest()


def test_official_releases_are_pinned() -> None:
    """URL, size and digest of the three files are those that eight independent projects record."""
    releases = {name: row.release for name, row in MODELS.items() if row.release}

    assert {name: (r.url, r.num_bytes, r.sha256[:8]) for name, r in releases.items()} == {
        "vit_b": (
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
            375042383,
            "ec2df627",
        ),
        "vit_l": (
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
            1249524607,
            "3adcc431",
        ),
        "vit_h": (
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
            2564550879,
            "a7bf3b02",
        ),
    }


def test_path_is_resolved_with_its_digest(
    tmp_path: Path, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path becomes absolute, so that workers elsewhere find it."""
    (tmp_path / "mine.pth").write_bytes(tiny_bytes)
    monkeypatch.chdir(tmp_path)

    assert resolve_checkpoint(ModelConfig(checkpoint="mine.pth")) == Checkpoint(
        name="mine.pth",
        path=tmp_path / "mine.pth",
        sha256=digest_of(tiny_bytes),
        source="file",
        architecture=ARCHITECTURES["tiny"],
        thresholds=MODELS["tiny"].thresholds,
    )


def test_home_and_folder_are_understood(
    tmp_path: Path, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``~`` is the home folder, and a folder stands for the model.safetensors in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(tiny_bytes)

    assert resolve_checkpoint(ModelConfig(checkpoint="~/run")).path == tmp_path / "run" / "model.safetensors"


def test_missing_path_lists_the_known_names() -> None:
    """A misspelt name or path tells what would do."""
    with pytest.raises(
        CheckpointError, match=r"'vitb': no such file, nor one of the known names tiny, vit_b"
    ):
        resolve_checkpoint(ModelConfig(checkpoint="vitb"))


def test_file_of_another_model_is_refused(tmp_path: Path, tiny_bytes: bytes) -> None:
    """The message names both models."""
    (tmp_path / "mine.pth").write_bytes(tiny_bytes)

    with pytest.raises(CheckpointError, match=r"mine.pth: made for tiny, but model.name is vit_b"):
        resolve_checkpoint(ModelConfig(name="vit_b", checkpoint=str(tmp_path / "mine.pth")))


def test_name_of_another_model_is_refused_before_any_download() -> None:
    """Asking vit_b to load the release of vit_h fails at once."""
    with pytest.raises(CheckpointError, match=r"'sam_vit_h_4b8939.pth' is made for vit_h, but .* is vit_b"):
        resolve_checkpoint(ModelConfig(name="vit_b", checkpoint="sam_vit_h_4b8939.pth"))


def test_wrong_digest_is_refused(tmp_path: Path, tiny_bytes: bytes) -> None:
    """The message tells the digest that was asked for and the one found."""
    (tmp_path / "mine.pth").write_bytes(tiny_bytes)

    with pytest.raises(
        CheckpointError, match=f"is {digest_of(tiny_bytes)}, but model.sha256 says {'0' * 64}"
    ):
        resolve_checkpoint(ModelConfig(checkpoint=str(tmp_path / "mine.pth"), sha256="0" * 64))


def test_right_digest_is_accepted_in_upper_case(tmp_path: Path, tiny_bytes: bytes) -> None:
    """Digests are compared without regard to case."""
    (tmp_path / "mine.pth").write_bytes(tiny_bytes)
    digest = digest_of(tiny_bytes)

    config = ModelConfig(checkpoint=str(tmp_path / "mine.pth"), sha256=digest.upper())

    assert resolve_checkpoint(config).sha256 == digest


def test_random_weights_only_by_name() -> None:
    """``random`` needs no file, and cannot be combined with a digest."""
    assert resolve_checkpoint(ModelConfig(checkpoint="random")) == Checkpoint(
        name="random",
        path=None,
        sha256=None,
        source="random",
        architecture=ARCHITECTURES["tiny"],
        thresholds=MODELS["tiny"].thresholds,
    )
    with pytest.raises(ConfigError, match=r"model.checkpoint=random has no file to check"):
        resolve_checkpoint(ModelConfig(checkpoint="random", sha256="0" * 64))


def test_tiny_comes_with_the_package(
    tmp_path: Path, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a checkpoint, tiny is the bundled file; if it is missing, the message says where it belongs."""
    monkeypatch.setitem(MODELS, "tiny", replace(MODELS["tiny"], bundled=tmp_path / "tiny.safetensors"))
    with pytest.raises(
        CheckpointError, match=r"no weights for tiny are bundled .*tiny.safetensors is missing"
    ):
        resolve_checkpoint(ModelConfig())
    (tmp_path / "tiny.safetensors").write_bytes(tiny_bytes)

    assert resolve_checkpoint(ModelConfig()).source == "bundled"
    assert resolve_checkpoint(ModelConfig(checkpoint="tiny")).path == tmp_path / "tiny.safetensors"


@pytest.fixture
def release(server: Server, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> Release:
    """The release of vit_b, replaced by a file of the local server that is taken for vit_b."""
    release = Release(
        url=f"{server.url}/sam_vit_b_01ec64.pth", num_bytes=len(tiny_bytes), sha256=digest_of(tiny_bytes)
    )
    monkeypatch.setitem(MODELS, "vit_b", replace(MODELS["vit_b"], release=release))
    monkeypatch.setattr(resolve, "find_model", lambda path: "vit_b")
    return release


@pytest.mark.parametrize("asked", [None, "vit_b", "sam_vit_b_01ec64.pth"])
def test_release_is_downloaded_into_the_cache_of_torch_hub(
    release: Release, server: Server, cache: Path, asked: str | None
) -> None:
    """By default, by model name and by file name; a second time without the network."""
    config = ModelConfig(name="vit_b", checkpoint=asked)
    expected = Checkpoint(
        name=release.file_name,
        path=cache / release.file_name,
        sha256=release.sha256,
        source="release",
        architecture=ARCHITECTURES["vit_b"],
    )

    assert resolve_checkpoint(config) == resolve_checkpoint(config) == expected
    assert len(server.ranges) == 1
    assert [path.name for path in cache.iterdir()] == [release.file_name]


def test_damaged_release_in_the_cache_is_refused(release: Release, server: Server, cache: Path) -> None:
    """A file under the official name must be the official file; it is neither used nor overwritten."""
    cache.mkdir(parents=True)
    (cache / release.file_name).write_bytes(b"something else")

    with pytest.raises(CheckpointError, match=f"but the release says {release.sha256}"):
        resolve_checkpoint(ModelConfig(name="vit_b"))

    assert server.ranges == []


def test_broken_download_is_resumed(server: Server, tmp_path: Path) -> None:
    """A connection that breaks twice costs two requests for the rest, and nothing twice."""
    server.drop_after = [1000, 500]
    download.download(f"{server.url}/a.pth", tmp_path / "a.pth", sha256=digest_of(server.content))

    assert (tmp_path / "a.pth").read_bytes() == server.content
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_next_run_resumes(server: Server, tmp_path: Path) -> None:
    """After three broken connections the part file stays, and the next run continues it."""
    server.drop_after = [100, 100, 100]
    with pytest.raises(CheckpointError, match=r"connection ended after 300 of \d+ bytes.*put the file at"):
        download.download(f"{server.url}/a.pth", tmp_path / "a.pth", sha256=digest_of(server.content))
    assert not (tmp_path / "a.pth").exists()
    download.download(f"{server.url}/a.pth", tmp_path / "a.pth", sha256=digest_of(server.content))

    assert (tmp_path / "a.pth").read_bytes() == server.content
    assert server.ranges[-1] == "bytes=300-"


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    """A server that sends the whole file again does not make a file of both."""
    server.honours_ranges = False
    server.drop_after = [1000]
    download.download(f"{server.url}/a.pth", tmp_path / "a.pth", sha256=digest_of(server.content))

    assert (tmp_path / "a.pth").read_bytes() == server.content


def test_part_longer_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    """When the server has nothing left to send, the part belonged to something else."""
    (tmp_path / "a.pth.part").write_bytes(bytes(len(server.content)))
    download.download(f"{server.url}/a.pth", tmp_path / "a.pth", sha256=digest_of(server.content))

    assert (tmp_path / "a.pth").read_bytes() == server.content


def test_download_without_digest_never_resumes(server: Server, tmp_path: Path) -> None:
    """Nothing would tell whether the old bytes belong to the file that the URL names today."""
    server.drop_after = [1000, 1000, 1000]
    with pytest.raises(CheckpointError, match="connection ended"):
        download.download(f"{server.url}/a.pth", tmp_path / "a.pth")
    server.ranges.clear()
    download.download(f"{server.url}/a.pth", tmp_path / "a.pth")

    assert server.ranges == [None]
    assert (tmp_path / "a.pth").read_bytes() == server.content


def test_server_error_is_tried_again(server: Server, tmp_path: Path) -> None:
    """Errors of the server's side may pass."""
    server.errors = [503, 500]
    download.download(f"{server.url}/a.pth", tmp_path / "a.pth")

    assert (tmp_path / "a.pth").read_bytes() == server.content


def test_not_found_is_final(server: Server, tmp_path: Path) -> None:
    """404 is reported with the URL after one request."""
    server.errors = [404, 404, 404]
    with pytest.raises(CheckpointError, match=r"cannot download http://127.*a.pth: HTTP 404 Not Found"):
        download.download(f"{server.url}/a.pth", tmp_path / "a.pth")

    assert len(server.ranges) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>Please sign in to the network</html>", "a web page instead of the weights"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"PK\x03\x04 other bytes", "its sha256 is"),
    ],
)
def test_wrong_download_is_deleted(server: Server, tmp_path: Path, content: bytes, message: str) -> None:
    """What arrives is checked before it gets its name; nothing of it stays."""
    server.content = content
    with pytest.raises(CheckpointError, match=message):
        download.download(f"{server.url}/a.pth", tmp_path / "cache" / "a.pth", sha256="0" * 64)

    assert list((tmp_path / "cache").iterdir()) == []


def test_wrong_size_is_refused(server: Server, tmp_path: Path) -> None:
    """A file of another size than the release's is refused."""
    with pytest.raises(CheckpointError, match=f"{len(server.content)} bytes arrived instead of 7"):
        download.download(f"{server.url}/a.pth", tmp_path / "a.pth", num_bytes=7)


def test_urls_with_the_same_file_name_do_not_meet_in_the_cache(server: Server, tiny_bytes: bytes) -> None:
    """Two URLs that end in model.safetensors are two files."""
    first = resolve_checkpoint(ModelConfig(checkpoint=f"{server.url}/a/model.safetensors"))
    second = resolve_checkpoint(ModelConfig(checkpoint=f"{server.url}/b/model.safetensors"))

    assert first.path != second.path
    assert first.sha256 == second.sha256 == digest_of(tiny_bytes)
    assert first.source == "url"


def test_other_schemes_are_refused() -> None:
    """An s3 URL is told what would do."""
    with pytest.raises(CheckpointError, match=r"only http\(s\) URLs are read"):
        resolve_checkpoint(ModelConfig(checkpoint="s3://bucket/tiny.pth"))

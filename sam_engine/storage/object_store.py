"""A store in a bucket. Commits are conditional puts, and what a service says of them is checked.

"There is one already" is no proof: S3 says so for a conflict in which nobody wrote (409), and whoever asks
again after a lost reply finds what it wrote itself. So the object is read: it is not there, is this writer's
own, or is another's. A server that ignores the condition is found by `sam_engine.storage.exclusivity`.
"""

import contextlib
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from sam_engine.errors import StorageError
from sam_engine.storage.bucket import FIRST_PAUSE_S, LONGEST_PAUSE_S, PATIENCE_S, Bucket, TakenError
from sam_engine.storage.lease import held, held_part
from sam_engine.storage.left_behind import is_left_behind
from sam_engine.storage.object_file import open_object
from sam_engine.storage.place import join, split_url
from sam_engine.storage.store import SET_ASIDE, TEMPORARY, StoredObject, check_name, check_temporary
from sam_engine.structures import Partition


@dataclass(frozen=True)
class ObjectStore:
    """The objects below one name of a bucket. Small and picklable; nothing is asked before it is used."""

    url: str
    """Without a slash at its end."""

    @property
    def needs_proof(self) -> bool:
        """Some servers that speak S3 ignore the condition of a conditional put."""
        return True

    def scan(self, prefix: str, limit: int | None = None) -> Sequence[StoredObject]:
        """Return what is known of the objects whose names start with ``prefix``, sorted by name."""
        bucket, root = self._place
        folder = join(root, prefix.rpartition("/")[0]) if root else prefix.rpartition("/")[0]
        start = f"{root}/" if root else ""
        found = (
            StoredObject(name=each.name.removeprefix(start), size=each.size, modified=each.modified)
            for each in bucket.scan(folder)
        )
        matching = (each for each in found if each.name.startswith(prefix))
        return sorted(itertools.islice(matching, limit), key=lambda each: each.name)

    def list(self, prefix: str, limit: int | None = None) -> list[str]:
        """Return the sorted names that start with ``prefix``."""
        return [each.name for each in self.scan(prefix, limit)]

    def has(self, name: str) -> bool:
        """Return whether there is an object of that name."""
        bucket, key = self._locate(name)
        try:
            bucket.head(key)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes:
        """Return a whole object."""
        bucket, key = self._locate(name)
        return bucket.get(key)

    def open(self, name: str, size: int | None = None) -> BinaryIO:
        """Return a seekable binary file that reads ranges."""
        bucket, key = self._locate(name)
        return open_object(bucket, key, size)

    def put_exclusive(self, name: str, data: bytes) -> bool:
        """Create an object unless one of that name exists; return whether this call created it.

        An object with the very same bytes counts as created: nobody can tell whose it is, and it is right.
        """
        bucket, key = self._locate(name)
        started, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                bucket.create(key, data)
            except TakenError:
                with contextlib.suppress(
                    FileNotFoundError
                ):  # a conflict that nobody won, or it was set aside
                    return bucket.get(key) == data
            else:
                return True
            if time.monotonic() - started > PATIENCE_S:
                raise StorageError(f"{join(self.url, name)}: it is said to be there, and is not")
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that writers do not collide again
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def replace(self, name: str, data: bytes) -> None:
        """Create or overwrite an object in one step."""
        bucket, key = self._locate(name)
        bucket.put(key, data)

    def set_aside(self, name: str) -> str:
        """Copy an object to ``_meta/damaged`` under its own name and a number, then delete it."""
        data = self.read(name)
        for number in itertools.count():
            target = f"{SET_ASIDE}/{name.rpartition('/')[2]}.{number}"
            if self.put_exclusive(target, data):
                break
        bucket, key = self._locate(name)
        bucket.delete(key)
        return target

    def delete_temporary(self, name: str) -> None:
        """Delete an object below ``_meta/tmp``."""
        check_temporary(name)
        bucket, key = self._locate(name)
        bucket.delete(key)

    def delete_own_temporaries(self) -> None:
        """Delete what killed processes have left of trying the store; a shard has no temporary."""
        for each in self.scan(f"{TEMPORARY}/"):
            if is_left_behind(each):
                self.delete_temporary(each.name)

    def settle(self) -> None:
        """Do nothing: what is visible here lasts."""

    @contextlib.contextmanager
    def lock(self, partition: Partition | None = None) -> Iterator[None]:
        """Hold an object below ``_meta/locks`` that is renewed; see `sam_engine.storage.lease`."""
        with held_part(self, partition or Partition()):
            yield

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold an object beside those of `lock`."""
        with held(self, name):
            yield

    def describe(self) -> str:
        """Return the URL."""
        return self.url

    @property
    def _place(self) -> tuple[Bucket, str]:
        """The bucket, and the name in it that the store's names are relative to."""
        url, root = split_url(self.url)
        return Bucket(url), root

    def _locate(self, name: str) -> tuple[Bucket, str]:
        """Return the bucket and the name in it of one object."""
        check_name(name)
        bucket, root = self._place
        return bucket, join(root, name) if root else name

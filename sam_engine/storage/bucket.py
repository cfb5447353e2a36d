"""A bucket through obstore: one request at a time, repeated here, with errors in plain words.

The library's own retries are off. It would ask again for minutes where nobody has ever answered, and gives up
at once on some replies that pass, such as S3's 400 RequestTimeout.
"""

import functools
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import Any, TypeVar

from sam_engine.errors import ConfigError, SamEngineError, StorageError
from sam_engine.storage.place import join, scheme_of
from sam_engine.storage.store import StoredObject

log = logging.getLogger(__name__)

Result = TypeVar("Result")

PATIENCE_S = 60.0
"""How long a request is repeated that fails for a reason that may pass."""
FIRST_PATIENCE_S = 2.0
"""The same, of a bucket that has not answered this process yet: its address may be wrong."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 8.0
LIST_PAGE = 1000
"""Names in a page of a listing; no service gives more."""
VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, of other services, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}
"""Of the environment, that say where a service is and who asks, by scheme."""
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*(\w+)")
_MESSAGE = re.compile(r"<Message>\s*([^<\n]*)")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
_NO_CREDENTIALS = (
    "169.254.169.254",
    "latest/api/token",
    "metadata.google.internal",
    "token request",
    "must be specified",
)
_PASSING_CODES = ("RequestTimeout", "SlowDown", "IncompleteBody", "ConditionalRequestConflict")
_PASSING_STATUSES = (408, 409, 425, 429)
_answered: set[str] = set()


class TakenError(Exception):
    """An object of that name is there, or so the service says."""


@dataclass(frozen=True)
class Bucket:
    """A bucket by its URL, ``s3://name``. Small and picklable; a process has one client of each."""

    url: str

    def get(self, name: str) -> bytes:
        """Return a whole object.

        Raises:
            FileNotFoundError: There is none of that name.
            ConfigError: The bucket has never answered, or refuses.
            StorageError: It does no longer.
        """

        def whole() -> bytes:
            reply = _library().get(_client(self.url), name)
            return _complete(reply.bytes(), reply.meta["size"])

        return self._ask(name, whole)

    def get_range(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop) of an object; raises as `get`."""

        def part() -> bytes:
            data = _library().get_range(_client(self.url), name, start=start, end=stop)
            return _complete(data, stop - start)

        return self._ask(name, part)

    def head(self, name: str) -> StoredObject:
        """Return what is known of an object; raises as `get`."""
        return _stored(self._ask(name, lambda: _library().head(_client(self.url), name)))

    def scan(self, folder: str = "") -> Iterator[StoredObject]:
        """Yield every object below a folder in the order of the service, a request for each 1,000.

        After a page that failed it goes on behind the last name. Raises as `get`.
        """
        pages: Any = None
        last: str | None = None

        def next_page() -> Any:
            nonlocal pages
            client = _client(self.url)
            asked = pages or _library().list(client, folder or None, offset=last, chunk_size=LIST_PAGE)
            pages = None  # unless there is an answer
            page = next(asked, None)
            pages = asked
            return page

        while page := self._ask(folder, next_page):
            yield from map(_stored, page)
            last = page[-1]["path"]

    def create(self, name: str, data: bytes) -> None:
        """Write an object unless one of that name is there.

        Raises:
            TakenError: One is there, or so it is said. This very call may have written it: replies get lost.
            ConfigError, StorageError: As `get`; whether it was written is not known.
        """
        self._ask(
            name,
            lambda: _library().put(_client(self.url), name, data, mode="create", use_multipart=False),
            is_conditional=True,
        )

    def put(self, name: str, data: bytes) -> None:
        """Write an object, over another if need be; raises as `get`."""
        self._ask(name, lambda: _library().put(_client(self.url), name, data, use_multipart=False))

    def delete(self, name: str) -> None:
        """Delete an object, if there is one; raises as `get`."""
        try:
            self._ask(name, lambda: _library().delete(_client(self.url), name))
        except FileNotFoundError:
            log.debug("%s was gone already", join(self.url, name))

    def _ask(self, name: str, request: Callable[[], Result], *, is_conditional: bool = False) -> Result:
        """Make a request, again after what may pass; raises as `get` and, on a condition, as `create`."""
        errors = _library().exceptions
        taken = (errors.AlreadyExistsError, errors.PreconditionError) if is_conditional else ()
        started, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                result = request()
            except FileNotFoundError as error:
                if _says(error, _NO_BUCKET):
                    raise self._failure(name, error) from error
                _answered.add(self.url)
                raise FileNotFoundError(f"{join(self.url, name)} does not exist") from error
            except taken as error:  # the library takes any 409 for it, also where nothing was conditional
                _answered.add(self.url)
                raise TakenError(join(self.url, name)) from error
            except (errors.BaseError, ConnectionError, ValueError) as error:
                patience = PATIENCE_S if self.url in _answered else FIRST_PATIENCE_S
                if not _may_pass(error) or time.monotonic() - started > patience:
                    raise self._failure(name, error) from error
                log.debug("%s: %s; again", join(self.url, name), _reason(error))
            else:
                _answered.add(self.url)
                return result
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that workers do not knock together
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _failure(self, name: str, error: Exception) -> SamEngineError:
        """Return what to raise: the place, what was said, and what may be wrong."""
        place, reason = join(self.url, name), _reason(error)
        scheme = (scheme_of(self.url) or "").replace("abfss", "az").replace("abfs", "az")
        variables = VARIABLES[scheme]
        if _says(error, _NO_BUCKET):
            reason = f"there is no bucket {self.url}; create it, or correct the name ({reason})"
        elif _says(error, _NO_CREDENTIALS):
            reason = f"no credentials were found; set {variables}"
        elif "Encountered object with invalid path" in str(error):
            reason = f"{reason}: names with empty parts, '.', '..' or control characters are not read"
        elif self.url not in _answered:
            reason = f"{reason}; is the address right, and {variables}?"
        return (StorageError if self.url in _answered else ConfigError)(f"{place}: {reason}")


def _library() -> ModuleType:
    """Return obstore. Late: most runs need none.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import obstore
        import obstore.exceptions
    except ImportError as error:
        raise ConfigError("object stores need obstore: pip install 'sam-engine[cloud]'") from error
    return obstore


@functools.cache
def _client(url: str) -> Any:
    """Return this process's client of a bucket: the environment says where it is and who asks.

    Raises:
        ConfigError: An address in the environment is none.
    """
    from obstore.store import from_url

    for variable in ENDPOINTS:
        address = os.environ.get(variable)
        if address and not re.match(r"https?://[^/]", address):
            raise ConfigError(f"{variable} is {address!r}; it must begin with https:// or http://")
    return from_url(
        url,
        client_options={  # allow_http: where the address itself says http://
            "allow_http": True,
            "connect_timeout": "5s",
            "read_timeout": "60s",
            "timeout": "900s",
        },
        retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
    )


def _stored(meta: Any) -> StoredObject:
    """Return what the library says of an object."""
    return StoredObject(name=meta["path"], size=meta["size"], modified=meta["last_modified"].timestamp())


def _complete(data: Any, size: int) -> bytes:
    """Return bytes of which all came."""
    if len(data) != size:
        raise ConnectionError(f"{len(data)} of {size} bytes came")
    return bytes(data)


def _may_pass(error: Exception) -> bool:
    """Return whether the same request may succeed in a moment."""
    text = str(error)
    if _says(error, (*_NO_BUCKET, *_NO_CREDENTIALS)):
        return False
    if found := _STATUS.search(text):
        status = int(found[1])
        is_bare = status == 400 and not _CODE.search(text)  # of a HEAD nobody is told which kind it is
        return status >= 500 or status in _PASSING_STATUSES or is_bare or _says(error, _PASSING_CODES)
    return isinstance(error, ConnectionError) or ("HTTP error" in text and "builder error" not in text)


def _says(error: Exception, texts: tuple[str, ...]) -> bool:
    """Return whether one of the texts is in what the service or the library said."""
    said = str(error)
    return any(text in said for text in texts)


def _reason(error: Exception) -> str:
    """Return what the service said, in one line; what the library said where there was no answer."""
    text = str(error).partition("\n\nDebug source")[0]
    if code := _CODE.search(text):
        message = _MESSAGE.search(text)
        return f"{code[1]}: {message[1].strip()}" if message else code[1]
    if status := _STATUS.search(text):
        return f"HTTP status {status[1]}"
    if "error sending request" in text and (address := re.search(r"https?://[^/\s]+", text)):
        return f"no answer from {address[0]}"
    return " ".join(text.rpartition(" - ")[2].split()) or type(error).__name__

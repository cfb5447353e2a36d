"""Object stores to test against: moto in this process, and what stands in front of it."""

import functools
import itertools
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

_numbers = itertools.count()


@dataclass(frozen=True)
class Service:
    """A server that speaks S3."""

    address: str
    """With its http://."""

    @property
    def environment(self) -> dict[str, str]:
        """What a process is to have in its environment to use it."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }

    def new_bucket(self) -> str:
        """Create a bucket and return its name, which no other test has."""
        name = f"bucket-{os.getpid()}-{next(_numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    def client(self):
        """Return boto3's client, which shares no code with ours."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )


@contextmanager
def moto() -> Iterator[Service]:
    """Run moto's S3 in a thread; skip where it is not installed."""
    pytest.importorskip("obstore", reason="extra: cloud")
    server = pytest.importorskip("moto.server", reason="extra: test")
    _put_in_one_step()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    threaded = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    threaded.start()
    try:
        host, port = threaded.get_host_and_port()
        yield Service(f"http://{host}:{port}")
    finally:
        threaded.stop()


@functools.cache
def _put_in_one_step() -> None:
    """Let moto look and put at once, as services do: between the two, another writer may win as well."""
    from moto.s3.responses import S3Response

    put, lock = S3Response.put_object, threading.Lock()

    def put_object(self):
        with lock:
            return put(self)

    S3Response.put_object = put_object

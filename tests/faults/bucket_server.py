"""An object store and a proxy before it, in a process: python -m tests.faults.bucket_server s3|azure.

It prints its environment as a line of JSON. A line on its standard input is a rate of faults; it answers with
the faults so far, as a line of JSON. It ends when its standard input does.
"""

import base64
import contextlib
import email.utils
import hashlib
import hmac
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

from tests.helpers.fault_proxy import FaultProxy
from tests.helpers.object_stores import moto

BUCKET = "bucket"
AZURE_FAULTS = ("lost reply", "dropped", "half a request", "truncated", "slow", "500", "503", "429")
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's account and key, which everybody knows."""


def main() -> None:
    """Serve."""
    with (azurite if sys.argv[1] == "azure" else s3)() as (proxy, environment), proxy.running():
        print(json.dumps(environment), flush=True)
        for line in sys.stdin:
            proxy.rate = float(line)
            print(json.dumps(proxy.faults), flush=True)


@contextlib.contextmanager
def s3() -> Iterator[tuple[FaultProxy, dict[str, str]]]:
    """Run moto, with a bucket."""
    with moto() as service:
        service.client().create_bucket(Bucket=BUCKET)
        proxy = FaultProxy(service.address)
        yield proxy, service.environment | {"AWS_ENDPOINT_URL": proxy.address, "STORE": f"s3://{BUCKET}"}


@contextlib.contextmanager
def azurite() -> Iterator[tuple[FaultProxy, dict[str, str]]]:
    """Run Azurite, with a container."""
    program = shutil.which("azurite-blob")
    if program is None:
        raise SystemExit("azurite-blob is not installed: npm install --global azurite")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with subprocess.Popen(
        [*command, "--blobHost", "127.0.0.1", "--blobPort", str(port)], stdout=subprocess.DEVNULL
    ) as server:
        try:
            _create_container(f"http://127.0.0.1:{port}")
            proxy = FaultProxy(f"http://127.0.0.1:{port}", kinds=AZURE_FAULTS)
            yield (
                proxy,
                {
                    "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
                    "AZURE_STORAGE_ACCOUNT_KEY": KEY,
                    "AZURE_STORAGE_ENDPOINT": f"{proxy.address}/{ACCOUNT}",
                    "STORE": f"az://{BUCKET}",
                },
            )
        finally:
            server.terminate()


def _create_container(address: str) -> None:
    """Create it as soon as the server answers."""
    date = email.utils.formatdate(usegmt=True)
    resource = f"/{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container"
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:2023-11-03\n{resource}"
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": "2023-11-03",
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
        "Content-Length": "0",
    }
    request = urllib.request.Request(
        f"{address}/{ACCOUNT}/{BUCKET}?restype=container", method="PUT", headers=headers
    )
    for attempt in range(60):
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()
        except urllib.error.HTTPError:
            raise
        except OSError:
            if attempt == 59:
                raise
            time.sleep(0.5)
        else:
            return


if __name__ == "__main__":
    main()

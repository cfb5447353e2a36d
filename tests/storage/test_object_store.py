"""A bucket behind a bad network: what is lost, refused, cut or late, kind by kind; and wrong addresses."""

import time

import pytest

from sam_engine.errors import ConfigError, StorageError
from sam_engine.storage import bucket as bucket_module
from sam_engine.storage.object_store import ObjectStore
from tests.helpers.fault_proxy import FAULTS, FaultProxy


@pytest.fixture(scope="module")
def proxy(s3_server):
    with FaultProxy(s3_server.address).running() as running:
        yield running


@pytest.fixture
def store(s3, proxy, monkeypatch):
    """A store behind the proxy, which does nothing yet; its bucket has answered."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    monkeypatch.setattr(bucket_module, "FIRST_PAUSE_S", 0.01)
    proxy.rate, proxy.kinds = 0.0, FAULTS
    store = ObjectStore(f"s3://{s3.new_bucket()}/out")
    store.replace("there", b"there")
    yield store
    proxy.rate = 0.0


class Once:
    """Dice by which exactly one thing happens, to the first request."""

    def __init__(self):
        self.left = 1

    def random(self):
        self.left -= 1
        return 0.0 if self.left >= 0 else 1.0

    def choice(self, kinds):
        return kinds[0]


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_changes_nothing(store, proxy, monkeypatch, fault):
    """Whatever happens to the first request: it is made again, and the answer is the one without faults."""
    calls = {
        "create": lambda: store.put_exclusive("new", b"mine" * 1000),
        "lose": lambda: store.put_exclusive("there", b"other"),
        "overwrite": lambda: store.replace("report", b"2" * 1000) or store.read("report"),
        "read": lambda: store.read("there"),
        "list": lambda: store.list(""),
        "part": lambda: store.open("there", size=5).read(),
        "has": lambda: (store.has("there"), store.has("gone")),
    }
    expected = {
        "create": True,
        "lose": False,
        "overwrite": b"2" * 1000,
        "read": b"there",
        "list": ["new", "report", "there"],
        "part": b"there",
        "has": (True, False),
    }
    proxy.kinds, proxy.rate = [fault], 0.5
    got = {}
    for name, call in calls.items():
        monkeypatch.setattr(proxy, "_dice", Once())
        got[name] = call()

    assert got == expected
    assert store.read("new") == b"mine" * 1000


def test_a_conflict_that_nobody_won_is_no_loss(store, proxy, monkeypatch):
    """S3's 409 says that the object exists; it does not, and this writer creates it."""
    monkeypatch.setattr(proxy, "_dice", Once())
    proxy.kinds, proxy.rate = ["409"], 0.5

    assert store.put_exclusive("new", b"mine")


def test_what_does_not_pass_is_one_line(store, proxy, monkeypatch):
    """Of a bucket that has answered: exit code 4, after some patience; the reason is the service's."""
    monkeypatch.setattr(bucket_module, "PATIENCE_S", 0.1)
    proxy.kinds, proxy.rate = ["503"], 1.0

    with pytest.raises(StorageError, match=r"^s3://bucket-[^ ]*/out/there: SlowDown: injected$"):
        store.read("there")


WRONG = {
    "no such bucket": ({}, "there is no bucket s3://.*create it, or correct the name"),
    "nobody there": (
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        r"no answer from http://127.0.0.1:9; is the",
    ),
    "no address": ({"AWS_ENDPOINT_URL": "nonsense"}, "AWS_ENDPOINT_URL is 'nonsense'; it must begin with"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_address_is_said_at_once(s3, monkeypatch, case):
    """One line, exit code 2, within seconds."""
    environment, message = WRONG[case]
    monkeypatch.setattr(bucket_module, "FIRST_PATIENCE_S", 0.1)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = ObjectStore(f"s3://never-{case.replace(' ', '-')}/out")
    started = time.monotonic()
    for ask in (lambda: store.list(""), lambda: store.read("a"), lambda: store.put_exclusive("a", b"")):
        with pytest.raises(ConfigError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            (403, "InvalidAccessKeyId", "The key does not exist"),
            "InvalidAccessKeyId: The key does not exist; is",
        ),
        (
            (403, "AccessDenied", "Access Denied"),
            "AccessDenied: Access Denied; is the address right, and AWS_",
        ),
        (
            (400, "AuthorizationHeaderMalformed", "expecting 'eu-west-1'"),
            "expecting 'eu-west-1'; is the address",
        ),
        (
            (301, "PermanentRedirect", "use the endpoint"),
            "normally indicates an incorrectly configured region; is the",
        ),
    ],
)
def test_wrong_keys_and_regions_are_said_in_the_services_words(s3, proxy, monkeypatch, reply, message):
    """A refusal does not pass by asking again."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    status, code, text = reply
    proxy.kinds, proxy.rate = [str(status)], 1.0
    monkeypatch.setattr("tests.helpers.fault_proxy._SAYS", {str(status): code})
    monkeypatch.setattr("tests.helpers.fault_proxy._MESSAGE", text)
    store = ObjectStore(f"s3://refused-{code.lower()}/out")
    proxy.requests.clear()
    with pytest.raises(ConfigError, match=message):
        store.read("a")

    assert proxy.requests.total() == 1
    proxy.rate = 0.0


def test_no_credentials_are_said(s3, proxy, monkeypatch):
    """Where the service of a cloud's machines for credentials does not answer either."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", proxy.address)
    proxy.kinds, proxy.rate = ["400"], 1.0
    with pytest.raises(ConfigError, match="no credentials were found; set AWS_ACCESS_KEY_ID"):
        ObjectStore("s3://no-credentials/out").list("")
    proxy.rate = 0.0


def fill(bucket, names):
    """Put empty objects into moto, as no server could be asked to so quickly."""
    models = pytest.importorskip("moto.s3.models")
    backend = models.s3_backends["123456789012"]["aws"]
    for name in names:
        backend.put_object(bucket, name, b"")


def test_a_listing_is_a_request_for_each_thousand(store, proxy):
    """And one more where the last page is full; a limit takes one page."""
    fill(store.url.split("/")[2], [f"out/many/{number:04d}" for number in range(999)])
    proxy.requests.clear()
    assert len(store.list("")) == 1000
    whole = proxy.requests["LIST"]
    store.list("", limit=1)

    assert (whole, proxy.requests["LIST"] - whole) == (1, 1)

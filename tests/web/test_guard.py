"""What a viewer refuses, asked over raw sockets as an attacker would."""

import json
import socket

import pytest

from sam_engine.web.app import make_app
from tests.web.conftest import TOKEN


def ask(port, request_line, *headers, body=b"", raw=b""):
    """Send bytes as they are; return status and the whole answer. ``raw`` has no length in the head."""
    lines = [request_line, *headers, "Connection: close"]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body + raw)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split()[1]), answer


def own(port):
    return f"Host: 127.0.0.1:{port}"


def cookie(served):
    """The cookie that the token is changed for."""
    _, answer = ask(served.port, f"GET /?token={TOKEN} HTTP/1.1", own(served.port))
    [line] = [line for line in answer.split(b"\r\n") if line.lower().startswith(b"set-cookie:")]
    return "Cookie: " + line.split(b":", 1)[1].split(b";")[0].strip().decode()


def paths_of(routes, prefix=""):
    """Every path of an application, with numbers filled in."""
    for route in routes:
        yield prefix + route.path.replace("{image_id:int}", "0")


def test_nothing_but_static_files_is_answered_without_the_token(served):
    """Every route of the table is walked, so that a new one cannot be forgotten."""
    paths = [path for path in paths_of(make_app(served.viewer).routes) if path != "/static"]
    statuses = {path: ask(served.port, f"GET {path} HTTP/1.1", own(served.port))[0] for path in paths}

    assert len(paths) >= 8
    assert set(statuses.values()) == {401}
    assert ask(served.port, "GET /static/main.js HTTP/1.1", own(served.port))[0] == 200


def test_the_token_becomes_a_cookie_and_leaves_the_address(served):
    """The first answer moves on to the same address without it; scripts cannot read the cookie."""
    status, answer = ask(served.port, f"GET /?token={TOKEN}&a=b HTTP/1.1", own(served.port))

    assert status == 303
    assert b"\r\nlocation: /?a=b\r\n" in answer
    assert b"HttpOnly" in answer
    assert b"samesite=strict" in answer.lower()


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "//evil.example/%2f.."])
def test_the_way_on_stays_on_this_host(served, path):
    """An address that browsers read as another host is no place to be sent to."""
    _, answer = ask(served.port, f"GET {path}?token={TOKEN} HTTP/1.1", own(served.port))
    locations = [line for line in answer.split(b"\r\n") if line.startswith(b"location:")]

    assert all(not line.split(b" ")[1].startswith((b"//", b"/\\", b"/%5C")) for line in locations)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1:{port}.evil.example",
        "evil@127.0.0.1:{port}",
        "",
    ],
)
def test_another_name_of_this_machine_is_refused(served, host):
    """DNS rebinding: a page of evil.example that resolves to this machine says its own name."""
    status, _ = ask(served.port, f"GET /?token={TOKEN} HTTP/1.1", "Host: " + host.format(port=served.port))

    assert status in (400, 421)


def test_two_names_are_refused(served):
    """A request that says both the right name and another is ambiguous."""
    status, _ = ask(served.port, "GET /static/main.js HTTP/1.1", own(served.port), "Host: evil.example")

    assert status in (400, 421)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Origin: http://evil.example", "Content-Type: application/json"],
        ["Origin: null", "Content-Type: application/json"],
        ["Origin: http://127.0.0.1:{port}", "Content-Type: text/plain"],
        ["Content-Type: application/json"],
    ],
)
def test_pages_of_others_cannot_write(served, headers):
    """Cross-site requests carry another origin, none, or a form's type; with the cookie all are refused."""
    given = [own(served.port), cookie(served), *(header.format(port=served.port) for header in headers)]
    paths = {
        route.path
        for route in make_app(served.viewer).routes
        if "POST" in (getattr(route, "methods", None) or ())
    }
    statuses = {ask(served.port, f"POST {path} HTTP/1.1", *given, body=b"{}")[0] for path in paths}

    assert len(paths) >= 3
    assert statuses == {403}


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd",
        "/static/%2fetc/passwd", "/static/..\\app.py", "/static/....//app.py", "/static/%252e%252e/app.py",
        "/api/images/0/../../../etc/passwd", "/api/images/%2e%2e/pixels.jpg", "/api/images/-1/pixels.jpg",
        "/api/images/0%00/pixels.jpg", "/api/images/99999999999999999999/pixels.jpg", "/api/images/1e3",
        "/api/images/0x0/pixels.jpg", "/api/images/٣/pixels.jpg",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(served, path):
    """URLs carry numbers of images and names of our own files, and nothing that walks from there."""
    quoted = path.encode().decode("latin-1")
    status, answer = ask(served.port, f"GET {quoted} HTTP/1.1", own(served.port), cookie(served))

    assert status in (400, 404)
    assert b"root:" not in answer
    assert b"Starlette" not in answer


def test_every_answer_carries_the_headers(served):
    """Also refusals: nothing is sniffed, framed, or loaded from elsewhere."""
    for line in (f"GET /?token={TOKEN} HTTP/1.1", "GET / HTTP/1.1", "GET /static/main.js HTTP/1.1"):
        _, answer = ask(served.port, line, own(served.port))
        head = answer.split(b"\r\n\r\n")[0].lower()

        assert b"content-security-policy: default-src 'none'" in head
        assert b"x-content-type-options: nosniff" in head
        assert b"referrer-policy: no-referrer" in head


def test_wrong_parameters_are_named(served):
    """A number that is none is a 400 that says which."""
    status, answer = ask(served.port, "GET /api/images?offset=-1 HTTP/1.1", own(served.port), cookie(served))

    assert status == 400
    assert "offset is '-1'" in json.loads(answer.split(b"\r\n\r\n")[1])["error"]

"""Requests that the server of the page accepts or refuses, and its upload limits, over HTTP."""

import io
import os
import socket
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from reward_core.errors import InputError

if find_spec("gradio") is None:  # importing it takes seconds, in each worker
    pytest.skip("the page needs gradio (extra: app)", allow_module_level=True)
import httpx

pytestmark = pytest.mark.slow  # the server's start takes seconds

KB = 1024
FILE, REQUEST, FOLDER = 256 * KB, 512 * KB, 1024 * KB


@pytest.fixture(scope="module")
def client():
    """A client of a server with small limits and the name of a proxy as an allowed host."""
    from reward_core.app import Limits, Models, build_page, serve
    from reward_core.app.uploads import remove_upload_folder

    sizes = {"UPLOAD_FILE": FILE, "UPLOAD_REQUEST": REQUEST, "UPLOAD_FOLDER": FOLDER, "REQUEST": 64 * KB}
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setenv(f"REWARD_CORE_MAX_{name}_BYTES", str(size))
        limits = Limits(megabytes=0.25)
        page = build_page(Models(["tiny"], only=True, device="cpu"), (), limits)
        _, address, _ = serve(
            page, host="127.0.0.1", port=None, share=False, limits=limits, allowed_hosts=["Proxy.example"]
        )
        with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
            yield client
        page.close(verbose=False)
        remove_upload_folder()


def uploads(size, *names, seed=0):
    return [("files", (name, bytes([seed + i]) * size)) for i, name in enumerate(names)]


def upload(client, size, *names, seed=0, **options):
    return client.post("/gradio_api/upload", files=uploads(size, *names, seed=seed), **options)


def join(client, **options):
    body = {"data": [[], "x", "tiny", []], "fn_index": 0, "session_hash": "s"}
    return client.post("/gradio_api/queue/join", json=body, **options)


def kept_bytes(client):
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "host",
    ["evil.example.com", "localhost.evil.com", "127.0.0.1.evil.com", "evil.com:7860", "192.0.2.1", "[::2]",
     "localhost@evil.com", "127.0.0.2", "0.0.0.0", "2130706433", "evil.com\x1b"],
    ids=lambda host: host.replace("::", "."),  # xdist splits the name of a test at "::"
)  # fmt: skip
def test_requests_for_other_hosts_are_refused(client, host):
    for path in (
        "/",
        "/config",
        "/gradio_api/queue/data?session_hash=x",
        "/gradio_api/heartbeat/x",
        "/assets/x",
    ):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code in (400, 421)
        assert answer.headers["content-type"].startswith("text/plain")
        assert "access-control-allow-origin" not in answer.headers
    assert join(client, headers={"Host": host, "Origin": f"http://{host}"}).status_code in (400, 421)
    assert upload(client, 1, "a.png", headers={"Host": host}).status_code in (400, 421)
    preflight = {"Host": host, "Origin": f"http://{host}", "Access-Control-Request-Method": "POST"}
    assert client.options("/gradio_api/queue/join", headers=preflight).status_code in (400, 421)


def test_requests_for_allowed_hosts_are_answered(client):
    port = client.base_url.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST", f"[::1]:{port}", "localhost.",
                 "proxy.example", "PROXY.example:443"):  # fmt: skip
        assert client.get("/config", headers={"Host": host}).status_code == 200, host


@pytest.mark.parametrize(
    "hosts", [[], ["localhost", "evil.com"], ["evil.com"], ["localhost:a"], ["local host"]]
)
def test_a_missing_repeated_or_malformed_host_is_refused(client, hosts):
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=10) as connection:
        connection.sendall(f"GET /config HTTP/1.1\r\n{lines}\r\n".encode())
        assert int(connection.recv(100).split()[1]) in (400, 421)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example.com"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "file://"},
        {"Origin": "http://127.0.0.1.evil.com"},
        {"Origin": "chrome-extension://abc"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_other_sites_cannot_send_anything(client, headers):
    assert join(client, headers=headers).status_code == 403
    assert upload(client, 1, "a.png", headers=headers).status_code == 403
    assert client.get("/gradio_api/queue/data?session_hash=x", headers=headers).status_code == 403
    asks = {**headers, "Access-Control-Request-Method": "POST"}
    assert client.options("/gradio_api/upload", headers=asks).status_code == 403
    text = client.post(
        "/gradio_api/queue/join", content="{}", headers={**headers, "Content-Type": "text/plain"}
    )
    assert text.status_code == 403
    assert text.text.startswith("Cannot answer this request: it comes from a page of another site.")


def test_the_page_itself_programs_and_links_are_served(client):
    own = str(client.base_url)
    for headers in (
        {},
        {"Origin": own},
        {"Origin": own, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
        {"Host": "proxy.example", "Origin": "https://proxy.example"},
        {"Origin": "https://proxy.example"},
    ):
        assert join(client, headers=headers).status_code == 200, headers
        assert upload(client, 1, "a.png", headers=headers).status_code == 200, headers
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=link).status_code == 200


def test_gradios_own_client_reaches_the_page(client):
    gradio_client = pytest.importorskip("gradio_client")
    program = gradio_client.Client(str(client.base_url), verbose=False)
    assert program.config["title"] == "Which picture would people like best?"


@pytest.mark.parametrize("headers", [{"Host": "evil.com"}, {"Origin": "http://evil.com"}])
def test_websockets_of_other_sites_are_refused(client, headers):
    asked = {
        "Host": f"127.0.0.1:{client.base_url.port}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
        **headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in asked.items())
    with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=10) as connection:
        connection.sendall(f"GET /queue/join HTTP/1.1\r\n{lines}\r\n".encode())
        assert int(connection.recv(100).split()[1]) in (403, 421)


def test_large_files_and_requests_are_refused(client):
    assert upload(client, FILE - 10, "a.png").status_code == 200
    assert upload(client, FILE + 10, "a.png").status_code == 413
    before = kept_bytes(client)
    answer = upload(client, FILE - 10, "a.png", "b.png", "c.png")
    assert answer.status_code == 413
    assert "REWARD_CORE_MAX_UPLOAD_REQUEST_BYTES" in answer.text
    body = io.BytesIO(b"x" * (REQUEST + 1))
    pieces = iter(lambda: body.read(KB), b"")  # without a Content-Length
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    start = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'

    def whole():
        yield start
        yield from pieces

    assert client.post("/gradio_api/upload", content=whole(), headers=headers).status_code == 413
    assert kept_bytes(client) == before
    assert join(client, params={}).status_code == 200
    long = {"data": [[], "x" * 65 * KB, "tiny", []], "fn_index": 0, "session_hash": "s"}
    assert client.post("/gradio_api/queue/join", json=long).status_code == 413


def test_old_uploads_are_deleted_for_new_ones(client):
    kept = []
    for seed in range(12):
        answer = upload(client, 200 * KB, "a.png", seed=seed)
        assert answer.status_code == 200
        kept.append(Path(answer.json()[0]))
        assert kept_bytes(client) <= FOLDER
    assert kept[-1].is_file()
    assert not kept[0].exists()

    def upload_some(seed):
        statuses.append(upload(client, 100 * KB, "a.png", "b.png", seed=seed).status_code)

    statuses = []
    threads = [threading.Thread(target=upload_some, args=(seed,)) for seed in range(20, 32, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 507}
    assert 200 in statuses
    assert kept_bytes(client) <= FOLDER


def test_allowed_hosts():
    from reward_core.app.request_guard import AllowedHosts

    everywhere = AllowedHosts("0.0.0.0")
    assert everywhere.allows("192.0.2.7")
    assert everywhere.allows(socket.gethostname().lower())
    assert not everywhere.allows("evil.com")
    assert AllowedHosts("192.0.2.7").allows("192.0.2.7")
    assert not AllowedHosts("192.0.2.7").allows("192.0.2.8")
    for name in ("http://a.com", "a.com:80", "a.com/x", "*", "", "a b"):
        with pytest.raises(InputError, match="Cannot allow the host"):
            AllowedHosts("127.0.0.1", [name])


def test_a_file_limit_below_the_option_is_reported(monkeypatch):
    from reward_core.app import Limits

    monkeypatch.setenv("REWARD_CORE_MAX_UPLOAD_FILE_BYTES", "1000")
    with pytest.raises(InputError, match="Cannot rank files of 32 MB: uploads are limited to 1,000 bytes"):
        _ = Limits().upload_bytes
    monkeypatch.setenv("REWARD_CORE_MAX_UPLOAD_FILE_BYTES", str(2**40))
    assert Limits(megabytes=2).upload_bytes == 16 * 2**20


def test_unused_routes_are_closed(client):
    files = [("video", ("a.mp4", b"x" * 100))]
    assert client.post("/gradio_api/process_recording", files=files).status_code == 404
    assert client.get("/gradio_api/deep_link?session_hash=x").status_code == 404
    for name in ("vibe-edit", "vibe-code/", "undo-vibe-edit", "profiling/clear"):
        assert client.post(f"/gradio_api/{name}", json={}).status_code == 404


def test_files_to_any_route_count_as_uploads(client):
    files = uploads(FILE, "a.png", "b.png", "c.png")
    assert client.post("/gradio_api/component_server", files=files).status_code == 413

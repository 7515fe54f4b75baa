"""A local server with the API of the hub."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Request(NamedTuple):
    line: str  # "GET /path"
    range: str | None
    authorization: str | None
    body: bytes


class Hub(ThreadingHTTPServer):
    """Repositories of small files, plain web files, and a list of the requests that came in.

    repos: {id: {branch: {filename: content}}}, ids of datasets begin with "datasets/". web: {path: content}.
    refusals: {id: (status, X-Error-Code or None)}; status 0 hangs up without an answer.
    dropped: {path: bytes after which the connection ends, once}.
    cut: {path: bytes after which the connection ends, once; the next request for it gets status 500}.
    damaged: {path: what is sent once instead of the file, with the same ETag and length}.
    etags: {content: ETag of files with it, such as the SHA-256 of large files; by default its SHA-1}.
    stalled: {path: bytes after which nothing more comes, until the server stops}.
    claims: {content: what lists of files say of it instead of the truth: {"size", "sha256"}}.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.repos, self.refusals, self.web = {}, {}, {}
        self.dropped: dict[str, int] = {}
        self.cut: dict[str, int] = {}
        self.damaged: dict[str, bytes] = {}
        self.etags: dict[bytes, str] = {}
        self.stalled: dict[str, int] = {}
        self.claims: dict[bytes, dict] = {}
        self.stopping = threading.Event()
        self.requests: list[Request] = []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self):
        self.stopping.set()
        if self.thread.is_alive():
            self.shutdown()
            self.thread.join()
            self.server_close()

    def asked_for(self, text):
        return [request for request in self.requests if text in request.line]


def commit_of(files):
    """Return the commit hash, which depends only on the content, as in git."""
    digest = hashlib.sha1()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        path, body = self.path.split("?")[0], b""
        if length := int(self.headers.get("Content-Length", 0)):
            body = self.rfile.read(length)
        request = Request(
            f"{self.command} {path}", self.headers["Range"], self.headers["Authorization"], body
        )
        self.server.requests.append(request)
        if path in self.server.web:
            self.send_file(path, self.server.web[path])
        elif match := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            self.resolve(*match.groups())
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":  # of a model card before its upload
            self.send_json({"errors": [], "warnings": []})
        elif match := re.fullmatch(
            r"/api/(models|datasets)/(.+)/(revision|tree|preupload|commit)/([^/]+)", path
        ):
            kind, repo, what, revision = match.groups()
            self.api(repo if kind == "models" else f"datasets/{repo}", what, revision, body)
        else:
            self.refuse(404, None)

    do_HEAD = do_POST = do_GET

    def files(self, repo, revision):
        """Return (commit, files), or None after sending an error response."""
        if repo in self.server.refusals:
            return self.refuse(*self.server.refusals[repo])
        if repo not in self.server.repos:
            return self.refuse(404, "RepoNotFound")
        for branch, files in self.server.repos[repo].items():
            if revision in (branch, commit_of(files)):
                return commit_of(files), files
        return self.refuse(404, "RevisionNotFound")

    def resolve(self, repo, revision, name):
        if found := self.files(repo, revision):
            commit, files = found
            if name not in files:
                return self.refuse(404, "EntryNotFound")
            self.send_file(self.path, files[name], {"X-Repo-Commit": commit})

    def create(self, asked):
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.server.refusals:
            return self.refuse(*self.server.refusals[repo])
        self.server.repos.setdefault(repo, {"main": {}})
        self.send_json({"url": f"{self.server.address}/{repo}"})

    def api(self, repo, what, revision, body):
        if not (found := self.files(repo, revision)):
            return
        commit, files = found
        if what == "revision":
            self.send_json({"id": repo, "sha": commit})
        elif what == "tree":
            self.send_json([self.entry(name, content) for name, content in files.items()])
        elif what == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
            self.send_json({"files": modes})
        else:
            items = [json.loads(line) for line in body.splitlines()]
            for item in items:
                if item["key"] == "file":
                    files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            commit = commit_of(files)
            address = f"{self.server.address}/{repo}/commit/{commit}"
            self.send_json({"commitUrl": address, "commitOid": commit})

    def entry(self, name, content):
        """Return a file's entry in a list of files; zips and tables are in LFS, as on the hub."""
        claim = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        claim |= self.server.claims.get(content, {})
        oid = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        entry = {"type": "file", "path": name, "size": claim["size"], "oid": oid}
        if name.endswith((".zip", ".parquet")):
            entry["lfs"] = {"oid": claim["sha256"], "size": claim["size"], "pointerSize": 134}
        return entry

    def send_file(self, path, content, headers=()):
        if self.server.cut.get(path) == 0:
            del self.server.cut[path]
            return self.refuse(500, None)
        start, size = 0, len(content)
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or ""):
            start = int(match[1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        etag = self.server.etags.get(content) or hashlib.sha1(content).hexdigest()
        self.send_header("ETag", f'"{etag}"')
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if path in self.server.stalled:
            self.wfile.write(content[start : self.server.stalled[path]])
            self.wfile.flush()
            self.server.stopping.wait(60)
            self.close_connection = True
        elif path in self.server.cut:
            self.wfile.write(content[: self.server.cut[path]])
            self.server.cut[path] = 0
            self.close_connection = True
        elif path in self.server.dropped:
            self.wfile.write(content[: self.server.dropped.pop(path)])
            self.close_connection = True
        else:
            self.wfile.write(self.server.damaged.pop(path, content)[start:])

    def send_json(self, content):
        answer = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def refuse(self, status, code):
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.end_headers()

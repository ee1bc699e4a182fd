"""A stand-in of the Hugging Face Hub that takes pushes and gives them back, for the real huggingface_hub."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

GATED = "owner/gated"


class Hub(ThreadingHTTPServer):
    """Repositories of models, each with its commits: files by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {GATED: {}}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def newest(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repositories.get(name, {})
        if revision == "main" and commits:
            revision = list(commits)[-1]
        return (revision, commits[revision]) if revision in commits else None


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlparse(self.path).path
        self.server.asked.append(f"POST {path}")
        if path == "/api/repos/create":
            about = json.loads(raw)
            name = f"{about.get('organization') or 'owner'}/{about['name']}"
            if name in self.server.repositories:
                return self._json({"url": f"{self.server.url}/{name}"}, 409)
            self.server.repositories[name] = {}
            return self._json({"url": f"{self.server.url}/{name}"})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/[^/]+", path):
            files = json.loads(raw)["files"]
            kept = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self._json({"files": kept})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/[^/]+", path):
            return self._json(self._commit(match[1], raw))
        if path.startswith("/api/validate-yaml"):
            return self._json({"errors": [], "warnings": []})
        return self._send(404)

    def _commit(self, name: str, raw: bytes) -> dict[str, str]:
        before = self.server.newest(name, "main")
        files = dict(before[1]) if before else {}
        for line in raw.decode().splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
        commit = hashlib.sha1(raw).hexdigest()
        self.server.repositories[name][commit] = files
        url = f"{self.server.url}/{name}/commit/{commit}"
        return {"commitUrl": url, "commitOid": commit, "commitTitle": "t", "commitMessage": "m"}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if path == "/api/whoami-v2":
            return self._json({"name": "owner", "type": "user", "orgs": []})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._about(match[1], match[2] or "main")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/.*)?", path):
            return self._tree(match[1], match[2])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            found = self.server.newest(match[1], match[2])
            if found and match[3] in found[1]:
                body = found[1][match[3]]
                tag = hashlib.sha256(body).hexdigest()
                return self._send(200, body, ETag=f'"{tag}"', X_Repo_Commit=found[0])
        return self._send(404, X_Error_Code="EntryNotFound")

    def _about(self, name: str, revision: str) -> None:
        if name == GATED:
            return self._send(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="ask for it")
        if name not in self.server.repositories:
            return self._send(404, b"{}", X_Error_Code="RepoNotFound")
        found = self.server.newest(name, revision)
        if found is None and revision != "main":
            return self._send(404, b"{}", X_Error_Code="RevisionNotFound")
        sha, files = found or ("0" * 40, {})
        siblings = [{"rfilename": path, "size": len(body)} for path, body in files.items()]
        return self._json({"id": name, "sha": sha, "private": False, "tags": [], "siblings": siblings})

    def _tree(self, name: str, revision: str) -> None:
        found = self.server.newest(name, revision)
        files = found[1] if found else {}
        rows = [
            {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
            for path, body in files.items()
        ]
        return self._json(rows)


@contextmanager
def running() -> Iterator[Hub]:
    """The stand-in, answering."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()

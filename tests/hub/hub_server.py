"""A Hub server on the loopback address, in memory, with the endpoints to create, push and pull repositories."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "a-good-token"
KINDS = {"": "model", "datasets/": "dataset"}


class HubServer:
    """Repositories by (kind, id), with their files and commits.

    The next `fail_commits` commits get the status 503. `faults` is a list of faults of the next downloads of a path: a
    status, "break" (the connection ends after half of the bytes), "html" (a page instead of the file), "damage" (other
    bytes of the same length), "whole" (ranges are ignored).
    """

    def __init__(self):
        self.repositories, self.objects, self.log = {}, {}, []
        self.fail_commits = 0
        self.faults = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def commit(self, key, files, deleted=()):
        repository = self.repositories[key]
        repository["files"] = {k: v for k, v in repository["files"].items() if k not in deleted} | files
        repository["commits"].append(hashlib.sha1(str(len(repository["commits"])).encode()).hexdigest())
        return repository["commits"][-1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", headers=()):
        if not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), [*headers, ("Content-Type", "application/json")]
        self.send_response(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in names:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def broken(self, data, start, headers):
        self.send_response(206 if start else 200)
        for name, value in [*headers, ("Content-Length", str(len(data) - start))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[start : start + (len(data) - start) // 2])
        self.wfile.flush()
        self.close_connection = True

    def missing(self, code):
        self.answer(404, {"error": code}, [("X-Error-Code", code)])

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_request(self):
        body = self.body()
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append(f"{self.command} {path}")
        if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials in Authorization header"})
        for pattern, method in ROUTES:
            match = re.fullmatch(pattern, path)
            if match:
                return method(self, body, **match.groupdict())
        return self.missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def create(self, body):
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        kind = wanted.get("type") or "model"
        known = (kind, name) in self.hub.repositories
        self.hub.repositories.setdefault((kind, name), {"files": {}, "commits": ["0" * 40]})
        prefix = "datasets/" if kind == "dataset" else ""
        self.answer(409 if known else 200, {"url": f"{self.hub.address}/{prefix}{name}", "id": name})

    def yaml(self, body):
        self.answer(200, {"errors": [], "warnings": []})

    def info(self, body, kind, name, rev=None):
        repository = self.hub.repositories.get((kind.rstrip("s"), name))
        if repository is None:
            return self.missing("RepoNotFound")
        if rev not in (None, "main", *repository["commits"]):
            return self.missing("RevisionNotFound")
        siblings = [{"rfilename": file} for file in sorted(repository["files"])]
        sha = repository["commits"][-1]
        card = re.match(r"---\n(?:.*\n)*?license: (\S+)", repository["files"].get("README.md", b"").decode())
        about = {"id": name, "sha": sha, "private": False, "tags": [], "siblings": siblings}
        return self.answer(200, about | {"cardData": {"license": card[1]} if card else {}})

    def preupload(self, body, kind, name, rev):
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".npy", ".parquet")) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(body)["files"]
        ]
        self.answer(200, {"files": files})

    def lfs(self, body, prefix, name):
        objects = []
        for item in json.loads(body)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.address}/lfs/{item['oid']}"}}
            objects.append(entry)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def put(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self.answer(200)

    def commit(self, body, kind, name, rev):
        if self.hub.fail_commits:
            self.hub.fail_commits -= 1
            return self.answer(503, {"error": "try later"})
        files, deleted = {}, []
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                deleted.append(value["path"])
        oid = self.hub.commit((kind.rstrip("s"), name), files, deleted)
        url = f"{self.hub.address}/{name}/commit/{oid}"
        return self.answer(200, {"commitOid": oid, "commitUrl": url, "pullRequestUrl": None})

    def tree(self, body, kind, name, rev, folder=""):
        repository = self.hub.repositories.get((kind.rstrip("s"), name))
        if repository is None:
            return self.missing("RepoNotFound")
        # As on the Hub, a recursive listing has rows for directories too.
        start, rows = f"{folder}/" if folder else "", {}
        for path, data in sorted(repository["files"].items()):
            if not path.startswith(start):
                continue
            oid = hashlib.sha1(data).hexdigest()
            parts = path[len(start) :].split("/")
            for depth in range(1, len(parts)):
                inner = start + "/".join(parts[:depth])
                rows[inner] = {"type": "directory", "path": inner, "size": 0, "oid": oid}
            rows[path] = {"type": "file", "path": path, "size": len(data), "oid": oid}
            if path.endswith(".tar"):
                sha256 = hashlib.sha256(data).hexdigest()
                rows[path]["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
            else:
                rows[path]["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if "recursive=true" not in self.path.lower():
            rows = {path: row for path, row in rows.items() if "/" not in path[len(start) :]}
        return self.answer(200, list(rows.values())) if rows or not folder else self.missing("EntryNotFound")

    def resolve(self, body, prefix, name, rev, path):
        repository = self.hub.repositories.get((KINDS[prefix or ""], name))
        if repository is None:
            return self.missing("RepoNotFound")
        data = repository["files"].get(path)
        headers = [("X-Repo-Commit", repository["commits"][-1])]
        if data is None:
            return self.answer(404, {"error": "no"}, [("X-Error-Code", "EntryNotFound"), *headers])
        faults = self.hub.faults.get(path) if self.command == "GET" else None
        fault = faults.pop(0) if faults else ""
        if isinstance(fault, int):
            return self.answer(fault, {"error": "no"}, [("Retry-After", "0")])
        if fault == "html":
            return self.answer(200, b"<!DOCTYPE html><p>please log in</p>", [("Content-Type", "text/html")])
        if fault == "damage":
            data = data[:-1] + bytes([data[-1] ^ 1])
        headers += [("ETag", f'"{hashlib.sha1(data).hexdigest()}"'), ("Accept-Ranges", "bytes")]
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if fault == "break":
            return self.broken(data, int(part[1]) if part else 0, headers)
        if part is None or fault == "whole":
            return self.answer(200, data, [*headers, ("Content-Length", str(len(data)))])
        first, last = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)  # `datasets` reads the footer so
        headers += [("Content-Range", f"bytes {first}-{last}/{len(data)}")]
        return self.answer(206, data[first : last + 1], [*headers, ("Content-Length", str(last + 1 - first))])


ID = r"(?P<name>[^/]+/[^/]+)"
API = rf"/api/(?P<kind>models|datasets)/{ID}"
ROUTES = (
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.yaml),
    (rf"{API}/preupload/(?P<rev>[^/]+)", _Handler.preupload),
    (rf"{API}/commit/(?P<rev>[^/]+)", _Handler.commit),
    (rf"{API}/tree/(?P<rev>[^/]+)(?:/(?P<folder>.+))?", _Handler.tree),
    (rf"{API}(?:/revision/(?P<rev>[^/]+))?", _Handler.info),
    (rf"/(?P<prefix>datasets/)?{ID}\.git/info/lfs/objects/batch", _Handler.lfs),
    (r"/lfs/(?P<oid>\w+)", _Handler.put),
    (rf"/(?P<prefix>datasets/)?{ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", _Handler.resolve),
)

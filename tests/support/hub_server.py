"""A Hugging Face Hub in this process: as much of its API as loading and pushing a model need."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread

from flask import Flask, Response, abort, redirect, request
from werkzeug.serving import make_server

TOKEN = "hf_" + "x" * 34


@dataclass
class Repo:
    """private: for `TOKEN` alone. refuses: a status and an error code for everyone. heads: branch
    or tag -> commit; commits: commit -> files."""

    private: bool = False
    refuses: tuple[int, str] | None = None
    heads: dict[str, str] = field(default_factory=lambda: {"main": ""})
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """A new commit of a branch with these files besides those that it has."""
        files = {**self.commits.get(self.heads[branch], {}), **files}
        oid = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[oid], self.heads[branch] = files, oid
        return oid


@dataclass
class Hub:
    """repos: by owner/name. blobs: of LFS, by sha256. asked: method and path of every request."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


def app_of(hub: Hub) -> Flask:
    app = Flask(__name__)
    app.before_request(lambda: hub.asked.append(f"{request.method} {request.path}"))

    def logged_in() -> bool:
        return request.headers.get("Authorization") == f"Bearer {TOKEN}"

    def refuse(status: int, code: str = "", **headers: str) -> None:
        headers |= {"X_Error_Code": code} if code else {}
        abort(Response(status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}))

    def repo(id: str) -> Repo:
        found = hub.repos.get(id)
        if found is None or (found.private and not logged_in()):
            refuse(401, "RepoNotFound")  # so that nobody learns what is private
        if found.refuses:
            refuse(*found.refuses)
        return found

    @app.get("/<path:id>/resolve/<revision>/<file>")
    def resolve(id, revision, file):
        found = repo(id)
        oid = found.heads.get(revision, revision)
        if oid not in found.commits:
            refuse(404, "RevisionNotFound")
        if file not in found.commits[oid]:
            refuse(404, "EntryNotFound", X_Repo_Commit=oid)
        data = found.commits[oid][file]
        etag = hashlib.sha256(data).hexdigest()
        if not file.endswith(".safetensors"):
            return Response(data, headers={"ETag": f'"{etag[:40]}"', "X-Repo-Commit": oid})
        hub.blobs.setdefault(etag, data)
        answer = redirect(f"{hub.url}/lfs/{etag}".replace("127.0.0.1", "localhost"))  # another host
        answer.headers.update({"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(data))})
        answer.headers["X-Repo-Commit"] = oid
        return answer

    @app.route("/lfs/<oid>", methods=["GET", "PUT"])
    def blob(oid):
        if request.method == "PUT":
            hub.blobs[oid] = request.data
        return Response(hub.blobs[oid])

    @app.post("/api/<path:of>")
    def api(of):
        """Of repos/create, validate-yaml, and models/ID/preupload, branch and commit."""
        if of == "validate-yaml":
            return {"errors": [], "warnings": []}
        if not logged_in():
            refuse(401)
        if of == "repos/create":
            id = f"{request.json['organization']}/{request.json['name']}"
            known = id in hub.repos
            private = (request.json.get("visibility") == "private", request.json.get("private"))
            hub.repos.setdefault(id, Repo(any(private)))
            return {"url": f"{hub.url}/{id}"}, 409 if known else 200
        _, owner, name, act, branch = of.split("/", 4)
        found = repo(f"{owner}/{name}")
        if act == "branch":
            known = branch in found.heads
            found.heads.setdefault(branch, found.heads["main"])
            return {}, 409 if known else 200
        if act == "preupload":
            large = {one["path"]: one["path"].endswith("rs") for one in request.json["files"]}
            mode = {True: "lfs", False: "regular"}
            rows = [
                {"path": n, "uploadMode": mode[x], "shouldIgnore": False} for n, x in large.items()
            ]
            return {"files": rows}
        entries = [json.loads(line) for line in request.data.splitlines()]
        files = {one["value"].get("path"): one["value"] for one in entries[1:]}
        decoded = {
            n: hub.blobs[v["oid"]] if "oid" in v else base64.b64decode(v["content"])
            for n, v in files.items()
        }
        oid = found.commit(branch, decoded)
        return {"commitOid": oid, "commitUrl": f"{hub.url}/{owner}/{name}/commit/{oid}"}

    @app.get("/api/models/<path:id>")
    def info(id):
        return {"id": id, "private": repo(id).private}

    @app.post("/<path:id>.git/info/lfs/objects/batch")
    def batch(id):
        objects = request.get_json(force=True)["objects"]
        for one in objects:
            one["actions"] = {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}
        return {"objects": objects}

    return app


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub on loopback, empty."""
    hub = Hub()
    server = make_server("127.0.0.1", 0, app_of(hub), threaded=True)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

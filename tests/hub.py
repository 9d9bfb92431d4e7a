"""A hub on loopback that answers what huggingface_hub asks: a double for tests, as no hub can be installed."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_double"
OWNER = "me"
LICENCES = {"apache-2.0", "cc-by-4.0", "mit", "other"}  # some of those that the hub knows


@dataclass
class Repository:
    """A repository as the hub keeps it."""

    kind: str
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict] = field(default_factory=list)  # each with its summary, files and deleted
    tags: dict[str, str] = field(default_factory=dict)  # name -> sha

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr((self.commits, self.kind)).encode()).hexdigest()


@dataclass
class Failure:
    """Answers `status` to requests that match, or drops their connection where it is None."""

    pattern: str
    status: int | None
    times: int
    after: bool  # the request is carried out, and only its answer is lost


class Hub:
    """Serves on a port of its own between `with`.

    Attributes:
        url: For HF_ENDPOINT.
        repositories: "model me/x" -> Repository.
        requests: "POST /api/repos/create", in order.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.failures: list[Failure] = []
        self.lock = threading.Lock()

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def fail(self, pattern: str, status: int | None, times: int = 99, after: bool = False) -> None:
        """Let requests fail whose "METHOD /path" has the pattern; status None drops the connection."""
        self.failures.append(Failure(pattern, status, times, after))

    def forget(self) -> None:
        """Empty the hub, and let it answer again."""
        self.repositories.clear()
        self.requests.clear()
        self.failures.clear()

    def failure(self, request: str) -> Failure | None:
        """The next failure that is due for a request."""
        for failure in self.failures:
            if failure.times and re.search(failure.pattern, request):
                failure.times -= 1
                return failure
        return None


class _Refused(Exception):  # noqa: N818 - an answer of the hub
    def __init__(self, status: int, message: str, code: str = "") -> None:
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *text: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {path}"
        with self.state.lock:
            self.state.requests.append(request)
            failure = self.state.failure(request)
            if failure is None or failure.after:
                try:
                    status, content, headers = self._answer(path, body)
                except _Refused as refused:
                    headers = {"X-Error-Message": refused.message, "X-Error-Code": refused.code}
                    status, content = refused.status, {"error": refused.message}
        if failure is not None:
            if failure.status is None:
                self.close_connection = True
                return
            status, content, headers = failure.status, {"error": "asked for by the test"}, {}
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(sent)), **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)

    def _answer(self, path: str, body: bytes) -> tuple[int, object, dict]:
        """Status, content (JSON or bytes) and further headers."""
        if path == "/api/validate-yaml":
            return self._validated(json.loads(body))
        if path == "/api/whoami-v2":
            self._check_token()
            return 200, {"type": "user", "name": OWNER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}, {}
        if path == "/api/repos/create":
            return self._created(json.loads(body))
        if path == "/api/repos/delete":
            self._check_token()
            self._repository(*self._named(json.loads(body)))
            del self.state.repositories[" ".join(self._named(json.loads(body)))]
            return 200, {}, {}
        if found := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)(/.*)?", path):
            return self._about(found[1], found[2], found[3] or "", body)
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file("dataset" if found[1] else "model", found[2], found[4])
        raise _Refused(404, f"the double does not know {self.command} {path}")

    def _check_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refused(401, "Invalid credentials in Authorization header")

    def _named(self, asked: dict) -> tuple[str, str]:
        return asked.get("type") or "model", f"{asked.get('organization') or OWNER}/{asked['name']}"

    def _repository(self, kind: str, name: str) -> Repository:
        found = self.state.repositories.get(f"{kind} {name}")
        if found is None or (found.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            raise _Refused(401 if "Authorization" not in self.headers else 404, "Repository not found", "RepoNotFound")
        return found

    def _created(self, asked: dict) -> tuple[int, object, dict]:
        self._check_token()
        kind, name = self._named(asked)
        if not name.startswith(f"{OWNER}/"):
            raise _Refused(403, f"You don't have the rights to create a {kind} under that namespace")
        if f"{kind} {name}" in self.state.repositories:
            raise _Refused(409, "You already created this repo")
        private = asked.get("private") or asked.get("visibility") == "private"
        self.state.repositories[f"{kind} {name}"] = Repository(kind, bool(private), {".gitattributes": b""})
        prefix = "datasets/" if kind == "dataset" else ""
        return 200, {"url": f"{self.state.url}/{prefix}{name}", "name": name}, {}

    def _validated(self, asked: dict) -> tuple[int, object, dict]:
        """As far as the hub's rules are known: YAML between dashes, a licence that it knows, a whole model-index."""
        found = re.match(r"---\n(.*?)\n---\n", asked["content"], re.DOTALL)
        try:
            data = yaml.safe_load(found[1]) if found else {}
        except yaml.YAMLError as error:
            return 400, {"errors": [{"message": str(error)}], "warnings": []}, {}
        errors = []
        if "license" in data and data["license"] not in LICENCES:
            errors.append('"license" must be one of the known licenses')
        for model in data.get("model-index", []):
            for result in model["results"]:
                complete = result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
                if not complete or any(not metric["type"] or metric["value"] is None for metric in result["metrics"]):
                    errors.append('"model-index" is incomplete')
        answer = {"errors": [{"message": message} for message in errors], "warnings": []}
        return (400 if errors else 200), answer, {}

    def _about(self, kind: str, name: str, rest: str, body: bytes) -> tuple[int, object, dict]:
        repository = self._repository(kind, name)
        if rest.startswith("/preupload/"):
            self._check_token()
            files = [
                {"path": entry["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": _oid(repository, entry)}
                for entry in json.loads(body)["files"]
            ]
            return 200, {"files": files}, {}
        if rest.startswith("/commit/"):
            self._check_token()
            return self._committed(name, repository, [json.loads(line) for line in body.splitlines()])
        if rest == "/tag/main":
            self._check_token()
            tag = json.loads(body)["tag"]
            if tag in repository.tags:
                raise _Refused(409, "Reference already exists")
            repository.tags[tag] = repository.sha
            return 201, {}, {}
        if rest.startswith("/tree/"):
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
                for path, content in sorted(repository.files.items())
            ]
            return 200, entries, {}
        if rest in ("", "/revision/main", f"/revision/{repository.sha}"):
            card = re.match(r"---\n(.*?)\n---\n", repository.files.get("README.md", b"").decode(), re.DOTALL)
            about = {
                "id": name,
                "sha": repository.sha,
                "private": repository.private,
                "tags": [],
                "downloads": 0,
                "siblings": [
                    {"rfilename": path, "size": len(repository.files[path])} for path in sorted(repository.files)
                ],
                "cardData": yaml.safe_load(card[1]) if card else {},
            }
            return 200, about, {}
        raise _Refused(404, f"the double does not know {rest}")

    def _committed(self, name: str, repository: Repository, lines: list[dict]) -> tuple[int, object, dict]:
        commit = {"summary": "", "files": [], "deleted": []}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                commit["summary"] = value["summary"]
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
                commit["files"].append(value["path"])
            elif line["key"] == "deletedFile":
                del repository.files[value["path"]]
                commit["deleted"].append(value["path"])
            else:
                raise _Refused(400, f"the double does not know {line['key']}")
        repository.commits.append(commit)
        return 200, {"commitUrl": f"{self.state.url}/{name}/commit/{repository.sha}", "commitOid": repository.sha}, {}

    def _file(self, kind: str, name: str, path: str) -> tuple[int, object, dict]:
        repository = self._repository(kind, name)
        if path not in repository.files:
            raise _Refused(404, f"{path} is not there", "EntryNotFound")
        content = repository.files[path]
        return 200, content, {"ETag": f'"{_blob(content)}"', "X-Repo-Commit": repository.sha}


def _oid(repository: Repository, entry: dict) -> str | None:
    content = repository.files.get(entry["path"])
    return None if content is None else _blob(content)


def _blob(content: bytes) -> str:
    """As git names a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

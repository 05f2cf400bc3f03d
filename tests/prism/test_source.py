"""Where models come from: pocket, folders, the Hugging Face cache, and a hub played by a local server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from warpcortex_cli.errors import ModelError, UsageError
from warpcortex_cli.prism.source import LARGER_MODEL, pull, resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"x" * 5000,
    "pytorch_model.bin": b"never fetched",
    "modeling_own.py": b"never fetched",
    "onnx/config.json": b"never fetched",
    "README.md": b"never fetched",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def put_in_cache(cache: Path, name: str, *files: str, ref: str = "main") -> Path:
    repo = cache / f"models--{name.replace('/', '--')}"
    fill(repo / "refs", ref)
    (repo / "refs" / ref).write_text(COMMIT)
    return fill(repo / "snapshots" / COMMIT, *files)


WHOLE = ("config.json", "tokenizer.json", "model.safetensors")


def test_pocket_is_inside_the_package() -> None:
    source = resolve_model("pocket")
    assert (source.kind, source.name, source.note) == ("pocket", "pocket", None)
    assert (source.path / "config.json").is_file()
    assert resolve_model(None, "pocket") == source


def test_auto_is_pocket_until_the_larger_one_is_there(cache: Path) -> None:
    source = resolve_model(None, "auto")
    assert source.kind == "pocket"
    assert source.note and f"warpcortex pull {LARGER_MODEL}" in source.note
    folder = put_in_cache(cache, LARGER_MODEL, *WHOLE[:2])
    assert resolve_model(None, "auto").kind == "pocket", "half a download is not a model"
    fill(folder, *WHOLE)
    assert resolve_model(None).kind == "hub"
    assert resolve_model("pocket").kind == "pocket"


def test_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "mine" / "model", *WHOLE)
    monkeypatch.chdir(tmp_path)
    for spec in ("mine/model", "./mine/model", str(folder)):
        source = resolve_model(spec)
        assert (source.kind, source.path, source.name) == ("folder", folder, spec)


def test_the_cache_with_and_without_revision(cache: Path) -> None:
    folder = put_in_cache(cache, "org/name", *WHOLE, ref="v1")
    with pytest.raises(ModelError, match="not in the Hugging Face cache"):
        resolve_model("org/name")
    for spec in ("org/name@v1", f"org/name@{COMMIT}"):
        source = resolve_model(spec)
        assert (source.kind, source.path, source.name) == ("hub", folder, spec)


def test_a_model_that_is_not_here_is_refused_with_the_fix() -> None:
    with pytest.raises(ModelError) as caught:
        resolve_model("org/name@v2")
    assert caught.value.exit_code == 3
    assert caught.value.hint and "`warpcortex pull org/name@v2`" in caught.value.hint


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing", "there is no model 'nothing'"),
        ("./nothing", "there is no folder './nothing'"),
        ("/no/such/folder", "there is no folder"),
        ("~nobody-at-all/x", "there is no folder"),
        ("", "there is no model ''"),
        ("a/b/c", "there is no folder"),
        ("../../etc/passwd", "there is no folder|is a file"),
        ("org/name@", "there is no folder"),
        ("bad--/na..me", "cache"),
    ],
)
def test_names_that_mean_nothing(spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_model(spec)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "holds no config.json"),
        (("config.json", "tokenizer.json"), "no weights in safetensors"),
        (("config.json", "tokenizer.json", "pytorch_model.bin"), "no weights in safetensors. Convert it"),
        (("config.json", "model.safetensors"), "has no tokenizer"),
        (
            ("config.json", "tokenizer.json", "model.safetensors.index.json"),
            "broken model.safetensors.index.json",
        ),
    ],
)
def test_a_folder_that_is_no_model(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_model(str(fill(tmp_path / "m", *files)))


def test_shards_are_all_there_and_inside(tmp_path: Path) -> None:
    folder = fill(tmp_path / "m", "config.json", "tokenizer.json", "a.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    with pytest.raises(ModelError, match=r"incomplete: b\.safetensors is missing"):
        resolve_model(str(folder))
    fill(folder, "b.safetensors")
    assert resolve_model(str(folder)).path == folder
    index.write_text(json.dumps({"weight_map": {"x": "../../a.safetensors"}}))
    with pytest.raises(ModelError, match="outside the folder"):
        resolve_model(str(folder))
    with pytest.raises(ModelError, match="is a file"):
        resolve_model(str(index))


def test_a_broken_link_in_the_cache_counts_as_missing(cache: Path) -> None:
    folder = put_in_cache(cache, "org/name", *WHOLE[:2])
    (folder / "model.safetensors").symlink_to("../../blobs/gone")
    with pytest.raises(ModelError, match=r"no weights|incomplete") as caught:
        resolve_model("org/name")
    assert caught.value.hint and "warpcortex pull org/name" in caught.value.hint


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        headers = {"Content-Type": "application/json"}
        status, content = 200, b"{}"
        if path == "/api/models/org/good/revision/main":
            content = json.dumps({"_id": "1", "id": "org/good", "sha": COMMIT}).encode()
        elif path == f"/api/models/org/good/tree/{COMMIT}":
            tree = [{"type": "file", "path": n, "size": len(c), "oid": n} for n, c in FILES.items()]
            content = json.dumps(tree).encode()
        elif path.startswith(f"/org/good/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/org/good/resolve/{COMMIT}/")
            self.asked.append(name)
            content = FILES[name]
            headers |= {
                "X-Repo-Commit": COMMIT,
                "ETag": f'"{name}"',
                "Content-Type": "application/octet-stream",
            }
        elif path.startswith("/api/models/org/gated"):
            status, headers["X-Error-Code"] = 403, "GatedRepo"
        elif path.startswith("/api/models/org/down"):
            status = 418
        elif path.startswith("/api/models/org/good"):
            status, headers["X-Error-Code"] = 404, "RevisionNotFound"
        else:
            status, headers["X-Error-Code"] = 404, "RepoNotFound"
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def test_pull_fetches_what_is_needed_and_nothing_else(hub: type[Hub]) -> None:
    steps: list[tuple[int, int]] = []
    source = pull("org/good", lambda done, total: steps.append((done, total)))
    assert sorted(set(hub.asked)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert resolve_model("org/good") == source
    assert steps[-1] == (5004, 5004)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("org/nothing", "not on the hub, or it is private"),
        ("org/gated", "is gated. Accept its terms"),
        ("org/good@v9", "the hub has no such revision"),
        ("org/down", "could not be downloaded"),
    ],
)
def test_pull_says_why_not(hub: type[Hub], spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        pull(spec)


def test_pull_without_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="the Hugging Face hub cannot be reached"):
        pull("org/good")


@pytest.mark.parametrize("spec", ["", "a b/c", "org/", "org/name@", "./x", "-m"])
def test_pull_takes_only_names_of_the_hub(spec: str) -> None:
    with pytest.raises(UsageError, match="not a name on the Hugging Face hub"):
        pull(spec)

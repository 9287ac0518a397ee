"""`maskstream models`: what lies where, which file is broken, and fetching with consent alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Outcome
from local_hub import COMMIT, MODEL_ID, LocalHub
from tiny_sam3 import write_sam3

from pipeline.models.fetching import FetchUsageError, order_of

Call = Callable[..., Outcome]
FILES = {
    "config.json": b'{"model_type": "sam3"}',
    "model.safetensors": b"weights" * 1000,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "README.md": b"---\nlicense: apache-2.0\n---\n",
}
DIGEST = hashlib.sha256(FILES["model.safetensors"]).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sam3(tmp_path_factory.mktemp("sam3"))


# --- list ----------------------------------------------------------------------------------


def test_shipped_models_are_listed_with_licence_and_digest(call_main: Call) -> None:
    told = call_main("models", "list")
    assert told.code == 0
    for name, licence in (("sam2_demo", "Apache-2.0"), ("yolo_demo", "AGPL-3.0")):
        path = next(ROOT.glob(f"stages/*/weights/{name}.safetensors"))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert f"  {path}\n    sha256 {digest}\n" in told.stdout
        assert f"licence {licence}, " in told.stdout.split(f"{name}  (")[1].splitlines()[1]


def test_what_a_configuration_loads_is_listed(
    call_main: Call, tmp_path: Path, folder: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "name: c\nsource: {kind: phantom}\n"
        f"detector: {{kind: sam3, model: {folder}}}\n"
        "segmenter: {kind: sam2_stream, model: sam2.1_hiera_t, checkpoint: none.pt}\n"
    )
    told = call_main("models", "list", str(config))
    assert told.code == 1
    assert f"{folder}  (detector sam3, model)" in told.stdout
    assert "licence SAM License" in told.stdout
    assert "none.pt  (segmenter sam2_stream, checkpoint)\n  not on this machine" in told.stdout
    assert call_main("models", "list", "demo").code == 0
    assert call_main("models", "list", "nothing.yaml").code == 78


def test_a_link_to_nothing_is_told(call_main: Call, tmp_path: Path, folder: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    (copy / "extra.json").symlink_to(tmp_path / "gone")
    (copy / "notes.txt").mkdir()
    config = tmp_path / "c.yaml"
    config.write_text(
        f"name: c\nsource: {{kind: phantom}}\ndetector: {{kind: sam3, model: {copy}}}\n"
        "segmenter: {kind: sam2_stream, model: demo}\n"
    )
    told = call_main("models", "list", str(config))
    assert told.code == 1
    assert f"  {copy / 'extra.json'}\n    No such file or directory\n" in told.stdout
    assert f"  {copy / 'model.safetensors'}\n    sha256 " in told.stdout
    assert "notes.txt" not in told.stdout
    checked = call_main("models", "check", str(copy), "--device", "cpu")
    assert f"FAILED  {copy / 'extra.json'}: No such file or directory\n" in checked.stdout


# --- fetch ---------------------------------------------------------------------------------


@pytest.fixture
def ask(call_main: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")

    def call(hub: LocalHub, *more: str, digest: str = DIGEST) -> Outcome:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        words = ("--revision", COMMIT, "--to", str(tmp_path / "to"), "--sha256", digest, *more)
        return call_main("models", "fetch", MODEL_ID, *words)

    return call


def there(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "to").rglob("*"))


def test_with_consent_the_needed_files_are_fetched(ask: Call, tmp_path: Path) -> None:
    with LocalHub(FILES) as hub:
        told = ask(hub, "--yes")
    assert told.code == 0, told.stderr
    assert there(tmp_path) == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    for name in there(tmp_path):
        assert (tmp_path / "to" / name).read_bytes() == FILES[name]


def test_without_consent_nobody_is_asked(ask: Call, tmp_path: Path) -> None:
    with LocalHub(FILES) as hub:
        told = ask(hub)
    assert told.code == 2
    assert f"would fetch {MODEL_ID} at {COMMIT}" in told.stderr
    assert "say --yes" in told.stderr
    assert told.stderr.count("\n") == 1
    assert hub.asked == []
    assert not (tmp_path / "to").exists()


def test_another_file_than_the_one_told_is_not_kept(ask: Call, tmp_path: Path) -> None:
    with LocalHub({**FILES, "model.safetensors": b"something else"}) as hub:
        told = ask(hub, "--yes")
    assert told.code == 1
    assert (
        f"model.safetensors: sha256 is {hashlib.sha256(b'something else').hexdigest()}"
        in told.stderr
    )
    assert there(tmp_path) == []


def test_a_pickle_is_fetched_only_when_it_is_named(ask: Call, tmp_path: Path) -> None:
    digest = hashlib.sha256(FILES["pytorch_model.bin"]).hexdigest()
    with LocalHub({"pytorch_model.bin": FILES["pytorch_model.bin"], "a.pt": b"x"}) as hub:
        assert "no weights among its files" in ask(hub, "--yes").stderr
        named = ask(hub, "--yes", "--file", "a.pt", digest=hashlib.sha256(b"x").hexdigest())
        assert named.code == 0
        assert "has no file b.pt" in ask(hub, "--yes", "--file", "b.pt", digest=digest).stderr
    assert there(tmp_path) == ["a.pt"]


def test_each_of_several_weights_needs_its_digest(ask: Call, tmp_path: Path) -> None:
    parts = {"model-1.safetensors": b"one", "model-2.safetensors": b"two"}
    digests = [f"{name}={hashlib.sha256(body).hexdigest()}" for name, body in parts.items()]
    with LocalHub(parts) as hub:
        assert "expected --sha256 model-1.safetensors=DIGEST" in ask(hub, "--yes").stderr
        assert ask(hub, "--yes", "--sha256", digests[1], digest=digests[0]).code == 0
    assert there(tmp_path) == sorted(parts)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((403, "GatedRepo"), "its owner asks for consent first: accept the terms on"),
        ((401, "RepoNotFound"), "no such model, or you are not logged in"),
        ((404, "RevisionNotFound"), f"has no revision {COMMIT}"),
        ((400, ""), "answered 400"),
    ],
)
def test_known_failures_are_one_line(
    ask: Call, tmp_path: Path, refusal: tuple[int, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_CANARY")
    with LocalHub(FILES, refusal) as hub:
        told = ask(hub, "--yes")
    assert told.code == 1
    assert said in told.stderr
    assert told.stderr.count("\n") == 1
    assert "CANARY" not in told.stderr + told.stdout
    assert there(tmp_path) == []


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((403, "GatedRepo"), "its owner asks for consent first: accept the terms on"),
        ((404, "EntryNotFound"), "a file that it lists is not there"),
        ((410, ""), "answered 410"),
    ],
)
def test_known_failures_of_a_file_that_is_listed(
    ask: Call, tmp_path: Path, refusal: tuple[int, str], said: str
) -> None:
    with LocalHub(FILES, refusal, listed=True) as hub:
        told = ask(hub, "--yes")
    assert told.code == 1
    assert said in told.stderr
    assert told.stderr.count("\n") == 1
    assert there(tmp_path) == []


def test_a_file_that_cannot_be_put_leaves_the_others_as_they_were(
    ask: Call, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    (to / "model.safetensors").mkdir(parents=True)
    (to / "config.json").write_text("as it was")
    with LocalHub(FILES) as hub:
        told = ask(hub, "--yes")
        assert told.code == 1
        assert f"{to / 'model.safetensors'}: Is a directory" in told.stderr
        assert there(tmp_path) == ["config.json", "model.safetensors"]
        assert (to / "config.json").read_text() == "as it was"
        (to / "config.json").unlink()
        assert ask(hub, "--yes").code == 1
        assert there(tmp_path) == ["model.safetensors"]
        (to / "model.safetensors").rmdir()
        assert ask(hub, "--yes").code == 0
    assert (to / "config.json").read_bytes() == FILES["config.json"]


def test_a_hub_that_is_not_there(ask: Call, tmp_path: Path) -> None:
    gone = LocalHub({})
    gone._server.server_close()
    told = ask(gone, "--yes")
    assert told.code == 1
    assert "cannot be reached" in told.stderr


def test_a_folder_that_cannot_be_made(ask: Call, tmp_path: Path) -> None:
    (tmp_path / "to").write_text("a file")
    with LocalHub(FILES) as hub:
        told = ask(hub, "--yes")
    assert told.code == 1
    assert "File exists" in told.stderr
    assert hub.asked == []


@pytest.mark.parametrize(
    ("model_id", "revision", "digests", "files", "said"),
    [
        ("tiny", COMMIT, [DIGEST], [], "expected an id such as"),
        (MODEL_ID, "main", [DIGEST], [], "--revision main: expected a commit"),
        (MODEL_ID, COMMIT, ["12"], [], "--sha256 12: expected 64 hexadecimal digits"),
        (MODEL_ID, COMMIT, [], [], "expected --sha256 of the weights"),
        (MODEL_ID, COMMIT, [DIGEST], ["../x"], "--file ../x: expected the name of a file"),
    ],
)
def test_what_is_not_pinned_is_refused(
    model_id: str, revision: str, digests: list[str], files: list[str], said: str
) -> None:
    with pytest.raises(FetchUsageError, match=said):
        order_of(model_id, revision, digests, Path("to"), files)


def test_without_the_hub_package(ask: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with LocalHub(FILES) as hub:
        assert "pip install 'maskstream[hub]'" in ask(hub, "--yes").stderr


def test_a_cached_model_is_found_and_listed(
    call_main: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    from huggingface_hub import constants

    snapshot = tmp_path / "hub" / "models--owner--tiny" / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(folder, snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    config = tmp_path / "c.yaml"
    section = {"kind": "sam3", "model": MODEL_ID, "revision": COMMIT, "phrases": ["sky"]}
    config.write_text(
        f"name: c\nsource: {{kind: phantom}}\ndetector: {json.dumps(section)}\n"
        "segmenter: {kind: sam2_stream, model: demo}\n"
    )
    assert str(snapshot / "model.safetensors") in call_main("models", "list", str(config)).stdout
    checked = call_main("models", "check", str(config), "--device", "cpu")
    assert checked.code == 0, checked.stdout
    assert "segmenter, after it, next frame" in checked.stdout

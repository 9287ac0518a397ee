"""Nothing that came from outside is ever run: no pickle, no eval, no shell, in the whole tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.detectors import yolo_pickle

ROOT = Path(__file__).parent.parent
FOLDERS = ("pipeline", "stages", "kpi", "tools", "benchmarks")
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
METHODS = {
    *("send_pyobj", "recv_pyobj", "send_serialized", "recv_serialized"),
    *("unsafe_load", "full_load", "unsafe_load_all", "full_load_all", "read_pickle", "to_pickle"),
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
UNDER_ANOTHER_NAME = {
    "torch": {"load"},
    "numpy": {"load"},
    "yaml": {"load", "load_all", "unsafe_load", "full_load"},
    "os": {"system", "popen"},
    "subprocess": {"getoutput", "getstatusoutput"},
}
"""What is looked for by its full name is not imported without its module."""
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}
READER = ROOT / "stages" / "detectors" / "yolo_pickle.py"
"""Reads what ultralytics pickled, as data: the one file that may look into a pickle's names."""


def breaches(source: str) -> Iterator[str]:
    """What in `source` could run what it reads."""
    tree = ast.parse(source)
    loaders = SAFE_LOADERS | {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and node.bases
        and {ast.unparse(base) for base in node.bases} <= SAFE_LOADERS
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (f"imports {name}" for name in names if name.split(".")[0] in MODULES)
        if isinstance(node, ast.ImportFrom) and node.module in UNDER_ANOTHER_NAME:
            hidden = {alias.name for alias in node.names} & UNDER_ANOTHER_NAME[node.module]
            yield from (f"imports {node.module}.{name}" for name in sorted(hidden))
        if isinstance(node, ast.Call):
            yield from _in_call(node, loaders)


def _in_call(node: ast.Call, loaders: set[str]) -> Iterator[str]:
    called = ast.unparse(node.func)
    last = called.rpartition(".")[2]
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    if called in BUILTINS | SHELLS or (last in METHODS and isinstance(node.func, ast.Attribute)):
        yield f"calls {called}"
    if called == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if last in ("load", "memmap", "open_memmap") and given.get("allow_pickle", "False") != "False":
        yield f"{called} with allow_pickle"
    if called == "np.load" and len(node.args) > 2:
        yield "np.load with allow_pickle by place"
    if called in ("yaml.load", "yaml.load_all"):
        loader = given.get("Loader") or (ast.unparse(node.args[1]) if len(node.args) > 1 else "")
        if loader not in loaders:
            yield f"{called} without a safe loader"
    if given.get("shell", "False") != "False":
        yield f"{called} with a shell"
    if "unsafe_globals" in called or last in ("safe_globals", "add_safe_globals"):
        yield f"calls {called}"


def python_files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_nothing_in_the_tree_runs_what_it_reads() -> None:
    files = python_files()
    assert len(files) > 200
    assert READER in files
    found = {path: list(breaches(path.read_text())) for path in files if path != READER}
    assert not {path: what for path, what in found.items() if what}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import cloudpickle.x",
        "socket.recv_pyobj()",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, None, True)",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=yaml.UnsafeLoader)",
        "class Mine(yaml.Loader): pass\nyaml.load(text, Mine)",
        "yaml.full_load(text)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "torch.serialization.add_safe_globals([x])",
        "pd.read_pickle(path)",
        "from torch import load",
        "from yaml import load as read",
        "from os import path, system",
    ],
)
def test_a_breach_is_seen(source: str) -> None:
    assert list(breaches(source))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "np.load(path)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "class Mine(yaml.SafeLoader): pass\nyaml.load(text, Mine)",
        "model.eval()",
        "re.compile(text)",
        "torch.compile(f)",
        "subprocess.run([text])",
    ],
)
def test_what_is_safe_is_no_breach(source: str) -> None:
    assert not list(breaches(source))


def test_the_reader_of_pickled_models_reads_data_alone() -> None:
    """What it does beside loading with `weights_only`: it looks at the names, refuses those that
    are not a model's, and stands an inert shell in for each of the others."""
    assert sorted(breaches(READER.read_text())) == [
        "calls torch.serialization.add_safe_globals",
        "calls torch.serialization.get_unsafe_globals_in_checkpoint",
        "calls torch.serialization.safe_globals",
    ]
    for name in ("builtins.eval", "os.system", "torch.load", "ultralyticsx.Y", "posix.system"):
        assert not yolo_pickle._allowed(name)
    shell, name = yolo_pickle._shell("ultralytics.nn.tasks.DetectionModel")
    assert name == "ultralytics.nn.tasks.DetectionModel"
    assert isinstance(shell("anything"), yolo_pickle.Shell)

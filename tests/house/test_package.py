"""The package: rooms whose arrows point down, and public names that are documented."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports
from numpydoc.validate import validate

import enough

ROOT = Path(__file__).resolve().parents[2]

PACKAGE = ROOT / "pyfiles" / "enough"

# What numpydoc asks beyond these is taste, not information.
CHECKS = {
    "GL08",
    "SS03",
    "PR01",
    "PR02",
    "PR03",
    "PR04",
    "PR07",
    "PR10",
    "RT01",
    "RT03",
    "YD01",
    "GL03",
}


def _modules():
    for module in pkgutil.walk_packages(enough.__path__, "enough."):
        if ".checks" not in module.name and not module.name.endswith("__main__"):
            yield module.name


def test_arrows_point_down():
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS


def test_the_contract_sees_an_arrow_that_points_up(tmp_path, monkeypatch):
    """The contract is not vacuous: runtime importing data would break it."""
    config = (ROOT / "pyproject.toml").read_text().replace('"runtime",\n]', '"runtime",\n]\n')
    upside_down = config.replace('  "data",\n', "").replace(
        '  "runtime",\n', '  "runtime",\n  "data",\n'
    )
    assert upside_down != config
    path = tmp_path / "pyproject.toml"
    path.write_text(upside_down)
    assert lint_imports(config_filename=str(path), no_cache=True) != EXIT_STATUS_SUCCESS


def test_nothing_imports_the_chapters():
    for path in [
        *PACKAGE.rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.split(".")[0] == "chapters" for name in names), path


def _public():
    seen = set()
    for name in _modules():
        module = importlib.import_module(name)
        for attribute in getattr(module, "__all__", ()):
            thing = getattr(module, attribute)
            if not (inspect.isfunction(thing) or inspect.isclass(thing)):
                continue
            if not thing.__module__.startswith("enough.") or id(thing) in seen:
                continue
            seen.add(id(thing))
            yield f"{thing.__module__}.{thing.__qualname__}", thing


@pytest.mark.parametrize(("name", "thing"), list(_public()), ids=[name for name, _ in _public()])
def test_public_names_are_documented(name, thing):
    if inspect.isclass(thing) and issubclass(thing, BaseException):
        assert thing.__doc__
        return
    found = [(code, text) for code, text in validate(name)["errors"] if code in CHECKS]
    if inspect.isclass(thing):
        # Attributes of dataclasses are documented as such, not as parameters.
        found = [(code, text) for code, text in found if code not in {"PR01", "PR02"}]
    assert found == []


@pytest.mark.parametrize("name", list(_modules()))
def test_public_names_exist(name):
    module = importlib.import_module(name)
    assert module.__doc__, "a module says what it is for"
    missing = [
        attribute for attribute in getattr(module, "__all__", ()) if not hasattr(module, attribute)
    ]
    assert missing == []


def test_no_pickle_is_loaded():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert not names & {"pickle", "dill", "joblib", "cloudpickle"}, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(
                    k.arg == "weights_only" and getattr(k.value, "value", None) is True
                    for k in node.keywords
                ), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                assert not any(
                    k.arg == "allow_pickle" and getattr(k.value, "value", None) is not False
                    for k in node.keywords
                ), path

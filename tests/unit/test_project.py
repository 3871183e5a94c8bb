"""Rules about the project itself: its layers, its names, what importing it does, what it must never contain."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("models", "tables", "agents", "app", "web")


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def modules() -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources()
        if path.name != "__main__.py"
    ]


def test_data_flows_one_way_through_the_layers() -> None:
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_code_is_typed_strictly() -> None:
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_code_is_linted_and_formatted() -> None:
    ruff = Path(sys.executable).parent / "ruff"
    for command in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run([ruff, *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_other_distribution_owns_our_top_level_names() -> None:
    owners = packages_distributions()
    for package in PACKAGES:
        assert set(owners.get(package, ["famulus"])) == {"famulus"}, f"{package} belongs to {owners[package]}, too"


def test_importing_any_module_opens_and_starts_nothing(tmp_path: Path) -> None:
    program = f"""
import importlib, socket, sqlite3, subprocess, sys, threading
import croniter  # Faust needs it, and it asks the system for its word size
sys.path.insert(0, {str(ROOT)!r})
def refuse(*args, **kwargs):
    raise AssertionError("opened at import")
sqlite3.connect = subprocess.Popen.__init__ = socket.socket.connect = socket.socket.bind = refuse
before = threading.active_count()
for name in {modules()!r}:
    importlib.import_module(name)
assert threading.active_count() == before, "a thread was started at import"
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


#: the only places where generated source is run: what becomes of admitted rules
COMPILES = {name: {"exec", "compile"} for name in ("agents/rules/compiler.py", "agents/rules/explanation.py")}


def test_nothing_unpickles_or_evaluates_text_from_outside() -> None:
    for path in sources():
        place = str(path.relative_to(ROOT))
        allowed = COMPILES.get(place, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}, f"{place}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called = node.func.id
                assert called not in {"eval", "exec", "compile"} - allowed, f"{place}:{node.lineno}: {called}"


def test_nothing_is_left_for_later() -> None:
    for path in sources():
        for word in ("TODO", "FIXME", "XXX"):
            assert word not in path.read_text(), f"{path}: {word}"

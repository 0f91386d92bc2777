"""Where things stand: packages, links, imports, public names, and the size of the core."""

import ast
import importlib
import io
import json
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAPPED = {"rtc_flower/clients": "clients", "rtc_flower/strategies": "strategies"}
CORE = ("rtc_flower.verify", "rtc_flower.ledger")
PATH = (*CORE, "rtc_flower.receipts", "rtc_flower.wire", "rtc_flower.clients.app",
        "rtc_flower.strategies.proof_of_prediction")  # fmt: skip
FORBIDDEN = ("clients", "strategies", "rtc_flower.clients", "rtc_flower.strategies", "torch",
             "scipy", "sklearn", "flwr", "ray")  # fmt: skip


def sources() -> list[Path]:
    """Every Python file of the library, once."""
    found = [
        path
        for folder in ("rtc_flower", "clients", "strategies")
        for path in (ROOT / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    ]
    linked = tuple(ROOT / link for link in MAPPED)
    return sorted(p for p in found if not any(link in p.parents for link in linked))


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] != "rtc_flower":
        parts.insert(0, "rtc_flower")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_package_is_declared_and_every_declared_package_is_there() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in sources()}
    assert {module_name(folder / "__init__.py") for folder in folders} == set(
        setuptools["packages"]
    )
    assert all((folder / "__init__.py").is_file() for folder in folders)
    mapping = {link.replace("/", "."): target for link, target in MAPPED.items()}
    assert setuptools["package-dir"] == {"rtc_flower": "rtc_flower"} | mapping


@pytest.mark.parametrize(("link", "target"), MAPPED.items())
def test_links_serve_editors(link: str, target: str) -> None:
    assert (ROOT / link).is_symlink()
    assert (ROOT / link).resolve() == (ROOT / target).resolve()


def test_nobody_imports_the_top_level_folders() -> None:
    for path in [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            imported: list[str] = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                imported = [node.module or ""]
            for name in imported:
                assert name.split(".")[0] not in ("clients", "strategies"), f"{path}: {name}"


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_a_list_of_public_names_is_sorted_and_true(path: Path) -> None:
    """A package lists its names; in a module a leading underscore makes a name private."""
    tree = ast.parse(path.read_text())
    assigned = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    if not assigned:
        brought = [n for n in tree.body if isinstance(n, ast.ImportFrom)]
        assert path.name != "__init__.py" or brought == [], f"{path}: __all__ is missing"
        return
    names = ast.literal_eval(assigned[0])
    constants = sorted(n for n in names if n.isupper())
    classes = sorted(n for n in names if not n.isupper() and n[0].isupper())
    functions = sorted(n for n in names if n[0].islower())
    assert list(names) == constants + classes + functions
    assert len(set(names)) == len(names)
    module = importlib.import_module(module_name(path))
    assert [name for name in names if not hasattr(module, name)] == []


def loaded_by(module: str) -> list[str]:
    """Modules that importing ``module`` loads, in a process of its own."""
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("module", CORE)
def test_the_core_needs_no_learning_no_flower_and_no_node(module: str) -> None:
    loaded = loaded_by(module)
    assert module in loaded
    wrong = [m for m in loaded for f in FORBIDDEN if m == f or m.startswith(f + ".")]
    assert wrong == []


def code_lines(path: Path) -> int:
    """Lines with code on them: no blank lines, comments or docstrings."""
    text = path.read_text()
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
             tokenize.ENCODING, tokenize.ENDMARKER}  # fmt: skip
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in quiet:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, holders) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return len(lines)


def test_the_core_does_not_grow_past_its_bound() -> None:
    """The core: what voting and verifying import, without clients and strategies themselves.

    An auditor reads it in an afternoon: docs/architecture.md.
    """
    loaded = {m for module in PATH for m in loaded_by(module)}
    core = {m for m in loaded if m.startswith("rtc_flower.") and m.count(".") == 1}
    core -= {link.replace("/", ".") for link in MAPPED}
    counts = {module_name(p): code_lines(p) for p in sources() if module_name(p) in core}
    assert set(counts) == core
    total = sum(counts.values())
    print(f"the core has {total} lines of code in {len(counts)} modules: {counts}")
    assert 1000 < total <= 2500

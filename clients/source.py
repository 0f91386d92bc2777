"""The code that a model is made by, so that a node whose code was edited trains anew."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import linecache
import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from threading import Lock
from types import CodeType, FunctionType, ModuleType

__all__ = ["code_digest"]

_CODE = (type, FunctionType)
_STANDARD = str(Path(os.__file__).parent)
_INSTALLED = frozenset(("site-packages", "dist-packages"))
# Python 3.11 counts the depth of syntax trees for all threads in one place, and refuses one of two.
_PARSER = Lock()


def code_digest(objects: Iterable[object]) -> bytes:
    """Return a hash of the code that decides what these objects do.

    That is the source of their classes' modules and of what those import, down to installed
    libraries, of which the version counts where one of the classes is theirs; and the byte code
    of the methods, for a class without source and one that was loaded again. Imports are followed
    where a module makes them at its top, so that training, which may import, changes no hash.

    Parameters
    ----------
    objects : iterable of object
        Instances, classes and functions.

    Returns
    -------
    bytes
        SHA-256; the same in every process that has loaded the same code.
    """
    held = [each for value in objects for each in _held(value)]
    names = {str(each.__module__) for each in held}
    codes = [code for each in held for code in _codes(each)]
    files = {code.co_filename for code in codes}
    files |= {str(module.__file__) for module in _followed(names) if _has_file(module)}
    versions = {(top, _version(top)) for top in (name.partition(".")[0] for name in names)}
    told = (sorted(map(_source, files)), sorted(versions), [_told(code) for code in codes])
    return hashlib.sha256(repr(told).encode(errors="backslashreplace")).digest()


@cache  # a file edited later is not the code that runs in this process
def _source(file: str) -> bytes:
    """Hash of a source file, or of a notebook's cell; of nothing where there is no source."""
    return hashlib.sha256("".join(linecache.getlines(file)).encode()).digest()


def _held(value: object) -> tuple[type | FunctionType, ...]:
    if isinstance(value, FunctionType):
        return (value,)
    return (value if isinstance(value, type) else type(value)).__mro__


def _codes(of: type | FunctionType) -> Iterator[CodeType]:
    for member in [of] if isinstance(of, FunctionType) else vars(of).values():
        if isinstance(member, (staticmethod, classmethod)):
            member = member.__func__
        elif isinstance(member, property):
            member = member.fget
        inner = inspect.unwrap(member) if isinstance(member, FunctionType) else None
        if isinstance(inner, FunctionType):
            yield inner.__code__


def _told(code: CodeType) -> str:
    constants = [
        _told(each)
        if isinstance(each, CodeType)
        else repr(sorted(map(repr, each)) if isinstance(each, frozenset) else each)
        for each in code.co_consts
    ]
    return repr((code.co_code, code.co_names, constants))


def _followed(names: set[str]) -> Iterator[ModuleType]:
    """Modules with these names, and what they import unless it is an installed library."""
    seen, todo = set[str](), set(names)
    while todo:
        name = todo.pop()
        seen.add(name)
        module = sys.modules.get(name)
        if not isinstance(module, ModuleType):
            continue
        library = _is_library(module)
        if name in names or not library:
            yield module
        if not library:
            todo |= set(_imports(module)) - seen


def _imports(module: ModuleType) -> Iterator[str]:
    if _has_file(module):
        package = module.__package__ or ""
        for level, base, name in _import_statements(str(module.__file__)):
            within = importlib.util.resolve_name("." * level + base, package)
            yield from (within, f"{within}.{name}")
        return
    for value in list(vars(module).values()):  # a notebook: what its cells have imported
        if isinstance(value, ModuleType):
            yield value.__name__
        else:
            yield str((value if isinstance(value, _CODE) else type(value)).__module__)


@cache
def _import_statements(file: str) -> tuple[tuple[int, str, str], ...]:
    """Level, module and name of every import that a file does whenever it is loaded."""
    try:
        with _PARSER:
            body = ast.parse("".join(linecache.getlines(file))).body
    except (SyntaxError, ValueError):  # a compiled file
        return ()
    found = list[tuple[int, str, str]]()
    for node in body:
        if isinstance(node, ast.Import):
            found += [(0, each.name, "") for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module or "", each.name) for each in node.names]
    return tuple(found)


def _has_file(module: ModuleType) -> bool:
    return getattr(module, "__file__", None) is not None


def _is_library(module: ModuleType) -> bool:
    if not _has_file(module):
        return module.__name__ != "__main__"  # a notebook
    path = str(module.__file__)
    return path.startswith(_STANDARD + os.sep) or not _INSTALLED.isdisjoint(path.split(os.sep))


def _version(package: str) -> str:
    return str(getattr(sys.modules.get(package), "__version__", ""))

"""Every public function says its parameters, what it returns and what it refuses, as numpydoc reads it."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import textwrap
import types
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpydoc.docscrape import ClassDoc, FunctionDoc
from test_architecture import stubs

import ionrt

pytest.importorskip("numpydoc", reason="comes with the extra docs")

REFUSES = re.compile(r"\braise \w|\bone_of\(|\brequire\(|\bnumber\(|\blimits\.\w+\(|\bcheck\(")
# The bytes of these modules are part of the hash that keeps base data (`ionrt.beam.store.physics_hash`): a docstring changed
# there makes every user compute them again. They follow with the next change of the physics.
IN_THE_PHYSICS_HASH = {f"ionrt.beam.{name}" for name in ("csda_range", "energy_for_range", "stopping_power", "transport")}


def every_function() -> dict[str, types.FunctionType]:
    """Public functions of the whole package by their shortest name, those of rooms that are one module included."""
    found: dict[int, tuple[str, types.FunctionType]] = {}
    for home, names in stubs().items():
        for _, name in names:
            one = getattr(importlib.import_module(home), name)
            inside = vars(one) if inspect.ismodule(one) and not hasattr(one, "__path__") else {}
            here = {f"{home}.{name}.{n}": f for n, f in inside.items() if getattr(f, "__module__", "") == one.__name__}
            for full, f in (here or {f"{home}.{name}": one}).items():
                if inspect.isfunction(f) and not f.__name__.startswith("_"):
                    found[id(f)] = min(found.get(id(f), (full, f)), (full, f), key=lambda pair: len(pair[0]))
    return dict(found.values())


def public() -> dict[str, types.FunctionType | type]:
    """Public functions and classes by their first name; those whose docstrings cannot change yet left out by name."""
    found: dict[int, tuple[str, types.FunctionType | type]] = {}
    for home, names in stubs().items():
        for _, name in names:
            one = getattr(importlib.import_module(home), name)
            if inspect.isfunction(one) or inspect.isclass(one):
                found.setdefault(id(one), (f"{home}.{name}", one))
    kept = {n for n, o in found.values() if n in IN_THE_PHYSICS_HASH and o.__module__.startswith("ionrt.beam.physics")}
    return {n: o for n, o in found.values() if n not in kept}


def refuses(function: types.FunctionType, depth: int = 2) -> bool:
    """Whether it, or what it calls in the package, raises."""
    source = textwrap.dedent(inspect.getsource(function))
    if REFUSES.search(source.split('"""')[-1]):
        return True
    called = {
        node.func.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    below = [function.__globals__.get(name) for name in called]
    return depth > 0 and any(refuses(f, depth - 1) for f in below if inspect.isfunction(f) and f.__module__.startswith("ionrt"))


@pytest.mark.parametrize("name", public())
def test_docstring_says_parameters_returns_and_raises(name):
    one = public()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a section that numpydoc does not know
        doc = ClassDoc(one) if inspect.isclass(one) else FunctionDoc(one)
    assert doc["Summary"]
    if inspect.isclass(one):
        return
    signature = inspect.signature(one)
    said = [part.strip().lstrip("*") for p in doc["Parameters"] for part in p.name.split(",")]
    assert sorted(said) == sorted(signature.parameters), "parameters, each once"
    assert doc["Returns"] or signature.return_annotation in ("None", None), "Returns"
    assert doc["Raises"] or not refuses(one), "Raises"


EXAMPLES = {name: f for name, f in every_function().items() if ">>>" in (f.__doc__ or "")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_shows_what_it_says(name, tmp_path, monkeypatch):
    """As a reader would type it, with ionrt, np, pd and xr imported; nothing is written."""
    monkeypatch.chdir(tmp_path)
    globs = {"ionrt": ionrt, "np": np, "pd": pd, "xr": xr}
    found = doctest.DocTestParser().get_doctest(inspect.getdoc(EXAMPLES[name]), globs, name, name, 0)
    told: list[str] = []
    doctest.DocTestRunner(verbose=False).run(found, out=told.append)
    assert not told, "".join(told)
    assert not list(tmp_path.iterdir())


def test_the_most_used_functions_have_an_example():
    assert len(EXAMPLES) >= 60

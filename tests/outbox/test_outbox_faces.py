"""The outbox's faces: what each has, and that nobody outside reaches below them."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
FACES = (
    "outbox",
    "outbox.admin",
    "outbox.reader",
    "outbox.schema",
    "outbox.schema.operations",
    "outbox.testing",
)
# What cannot be seen from a face: a bound that a test shortens, SQL that it explains, a helper's rule.
TESTS_OF_THE_INSIDES = {
    "test_doorbell.py",
    "test_library_page.py",
    "test_outbox_limits.py",
    "test_outbox_plans.py",
    "test_pacing.py",
    "test_published.py",
    "test_shards.py",
}


def test_nobody_outside_reaches_below_the_faces() -> None:
    """The product's packages, the examples of the docs and the tests of everything else."""
    outside = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."]
    modules = [path for root in outside if root.name != "outbox" for path in root.rglob("*.py")]
    reaching = {
        str(path): private
        for path in modules
        if path.name not in TESTS_OF_THE_INSIDES
        if (private := list(private_names(ast.parse(path.read_text()))))
    }
    assert len(modules) > 200
    assert reaching == {}


@pytest.mark.parametrize(
    "source",
    [
        "from outbox.append import Message",
        "import outbox.reader.shards",
        "from outbox import errors",
        "from outbox.reader import difference",
        "import outbox\noutbox.tables.message",
        "from outbox import admin\nadmin.selection.survey",
    ],
)
def test_what_reaches_below_a_face_is_noticed(source: str) -> None:
    assert list(private_names(ast.parse(source)))


@pytest.mark.parametrize("face", FACES)
def test_all_that_is_public_states_its_contract(face: str) -> None:
    """A dataclass without a docstring has its signature for one, which is no sentence."""
    module = import_module(face)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        if callable(value := vars(module)[name]):
            assert value.__doc__ is not None, name
            assert value.__doc__.rstrip().endswith("."), name


@pytest.mark.parametrize("face", FACES)
def test_nothing_is_public_by_accident(face: str) -> None:
    """What a face imports is for everybody, or begins with an underscore, or is a module."""
    named = {name: value for name, value in vars(import_module(face)).items() if name[0] != "_"}
    gathers = face in {"outbox", "outbox.admin", "outbox.reader"}
    made_here = {
        name
        for name, value in named.items()
        if not isinstance(value, ModuleType)
        and (gathers or getattr(value, "__module__", None) == face)
    }
    assert made_here <= public(face)


def test_the_page_has_every_public_name_and_no_other() -> None:
    _, _, listed = (ROOT / "docs" / "library.md").read_text().partition("## Every name")
    named = set(re.findall(r"`(\w+)`", listed)) - set(FACES)
    assert named == set().union(*map(public, FACES))


def test_no_two_faces_have_a_name_in_common() -> None:
    for one, other in combinations(FACES, 2):
        assert not public(one) & public(other), (one, other)


def test_an_application_loads_no_other_face() -> None:
    script = (
        "import outbox, sys; print(*(name for name in sys.modules if name.startswith('outbox.')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not [name for name in loaded if name.split(".")[1] in {"admin", "reader", "testing"}]


def private_names(tree: ast.AST) -> Iterator[str]:
    """Return what a module takes of the outbox that no face offers."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names if is_below(each.name))
            case ast.ImportFrom(module=str(module), names=names) if is_of_outbox(module):
                taken = [f"{module}.{each.name}" for each in names]
                yield from (name for name in taken if not is_offered(name))
            case ast.Attribute(value=ast.Name(id="outbox" | "admin" | "reader" as face), attr=attr):
                name = f"outbox.{attr}" if face == "outbox" else f"outbox.{face}.{attr}"
                if is_module(name) and not is_offered(name):
                    yield name


def is_of_outbox(module: str) -> bool:
    return module.partition(".")[0] == "outbox"


def is_below(module: str) -> bool:
    return is_of_outbox(module) and module not in FACES


def is_offered(name: str) -> bool:
    """Whether a dotted name is a face, or is in the `__all__` of one."""
    module, _, last = name.rpartition(".")
    return name in FACES or (module in FACES and last in public(module))


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def public(face: str) -> set[str]:
    return set(import_module(face).__all__)

"""Are innbox's packages its own? Python takes the first of a name on its path, of any project.

Two things happen. A project that comes earlier on the path hides a package of innbox. Or one that is
installed into the same environment has written over its files, which the list of what was installed (the
RECORD of the distribution) shows by their sizes; a checkout has no such list, and nobody writes over it.
"""

import csv
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent
OWN = ("api", "consumers", "domain", "migrations", "ops", "runtime")


def foreign_packages(root: Path = ROOT) -> list[str]:
    """Say of each package that is another project's where it is; imports none of them."""
    return [*_hidden(root), *_overwritten(root)]


def _hidden(root: Path) -> Iterator[str]:
    for name in OWN:
        spec = find_spec(name)
        found = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
        if not any(place.exists() and place.samefile(root / name) for place in found[:1]):
            where = found[0] if found else (spec and spec.origin) or "nowhere"
            yield f"the package {name!r} is not innbox's: Python finds {where} before {root / name}"


def _overwritten(root: Path) -> Iterator[str]:
    """Compare sizes, since to read some three hundred files would slow every command down."""
    try:
        installed = distribution("innbox")
    except PackageNotFoundError:
        return
    if not Path(str(installed.locate_file(""))).samefile(root):  # this is a checkout beside it
        return
    record = installed.read_text("RECORD") or ""
    for path, _, size in csv.reader(record.splitlines()):
        if path.partition("/")[0] not in OWN or not size:
            continue
        file = root / path
        if not file.is_file() or file.stat().st_size != int(size):
            yield f"{file} is not as innbox installed it: another project has written over it"
            return

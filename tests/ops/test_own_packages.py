"""innbox is an application: it notices when Python would take another project's code for its own."""

import csv
import os
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from innbox import own_packages
from innbox.own_packages import OWN, ROOT, foreign_packages
from ops.migrate import current_and_head, migrate


@pytest.mark.unit
def test_in_an_environment_of_its_own_all_packages_are_innboxs() -> None:
    assert foreign_packages() == []


@pytest.mark.unit
def test_every_package_of_the_wheel_with_a_plain_name_is_looked_after() -> None:
    """Those that are distributions, or begin with innbox, belong to nobody else."""
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    others = {"innbox", "innbox_client", "innbox_process", "outbox", "relay", "tests"}
    assert set(OWN) == packages - others


@pytest.mark.unit
@pytest.mark.parametrize("name", OWN)
def test_a_package_of_another_project_is_named_before_it_is_imported(
    name: str, tmp_path: Path
) -> None:
    """One with a plain name of its own comes first on the path."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise AssertionError('it was imported')")
    run = subprocess.run(
        [sys.executable, "-P", "-m", "innbox", "--help"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert f"'{name}' is not innbox's: Python finds {tmp_path / name} before" in run.stderr
    assert "virtual environment of its own" in run.stderr


@pytest.mark.unit
def test_files_that_were_written_over_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two projects in one environment: the one that was installed last has the file."""
    (tmp_path / "api").mkdir()
    files = [tmp_path / "api" / name for name in ("__init__.py", "app.py")]
    for file in files:
        file.write_text("# innbox's\n")
    listed = tmp_path / "innbox-0.dist-info"
    listed.mkdir()
    with (listed / "RECORD").open("w") as lines:
        csv.writer(lines).writerows(
            [str(file.relative_to(tmp_path)), "sha256=0", file.stat().st_size] for file in files
        )
    installed = Distribution.at(listed)
    monkeypatch.setattr(own_packages, "distribution", lambda _: installed)

    assert not list(own_packages._overwritten(tmp_path))
    files[1].write_text("# another project's\n")
    (found,) = own_packages._overwritten(tmp_path)
    assert str(files[1]) in found
    # A checkout that is run beside an installed wheel has files of its own.
    assert not list(own_packages._overwritten(ROOT))


def test_innbox_migrates_by_its_own_migrations_wherever_it_is_started(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another project's directory of that name is the working directory, and first on the path."""
    (tmp_path / "migrations").mkdir()
    for name in ("__init__.py", "env.py"):
        (tmp_path / "migrations" / name).write_text("raise AssertionError('it was run')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    migrate(empty_database_url)
    current, head = current_and_head(empty_database_url)
    assert current == head is not None

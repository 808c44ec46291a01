"""Lock files: a lock names its holder, and guards the file that is at its path."""

import os
from pathlib import Path

import pytest

from ops.locks import LockHeld, holding, is_held

pytestmark = pytest.mark.unit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "a.lock"


def test_a_second_process_waits_once_and_gives_up_with_the_holders_name(path: Path) -> None:
    waits: list[str] = []
    with holding(path, within_s=0):
        with (
            pytest.raises(LockHeld) as refused,
            holding(path, within_s=0.1, on_wait=waits.append),
        ):
            pytest.fail("there are two holders")
        assert waits == [refused.value.holder]
        assert waits[0].startswith(f"process {os.getpid()} ")


def test_a_lock_can_be_tested_without_taking_it(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        is_held(path)
    with holding(path, within_s=0):
        assert is_held(path)
    assert not is_held(path)


def test_a_lock_on_a_file_that_its_holder_removes_does_not_count(path: Path) -> None:
    """A waiter must lock the file that a third process would find."""
    with holding(path, within_s=0):
        path.unlink()
        path.parent.rmdir()
        with holding(path, within_s=0):
            assert is_held(path)

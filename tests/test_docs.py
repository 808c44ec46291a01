"""What the documents promise is there."""

import re
from pathlib import Path

import pytest

from runtime.settings import Settings

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_guarantee_names_a_test_that_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "README.md").read_text())
    assert named
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_has_a_gap_to_be_filled(page: Path) -> None:
    assert "@@" not in page.read_text()
    assert "TODO" not in page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_leads_nowhere(page: Path) -> None:
    for path, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]*))?\)", page.read_text()):
        target = page.parent / path if path else page
        if not path.startswith("http"):
            assert target.exists(), path
            assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_the_operators_guide_knows_every_setting() -> None:
    guide = (ROOT / "docs" / "operations.md").read_text()
    missing = [name.upper() for name in Settings.model_fields if f"`{name.upper()}`" not in guide]
    assert missing == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "decisions").glob("*.md")))
def test_a_decision_says_when_to_revisit_it(page: Path) -> None:
    assert page.read_text().rstrip().rpartition("\n\n")[2].startswith("**Revisit when**")


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links to them, as GitHub has it."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}

"""Count the phrases of docs/words.toml: none in the documents, and ever fewer in what the product says.

`python -m tests.support.words` prints where they are and how many each room of the product still has;
exit code 1 if a document has one, or a room has more than its ceiling. Ceilings may only go down.
"""

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "docs/**/*.yaml", "examples/**/*")
# What is quoted is another's text: a name in the code, or what a program prints.
QUOTED = re.compile(r"^```.*?^```$|`[^`\n]*`|\]\([^)]*\)", re.MULTILINE | re.DOTALL)

# Phrases in the strings and comments of each package; a package that is not here has none.
# Lower the number with the count.
CEILINGS = {
    "innbox_process": 4,  # former texts of log events
    "ops": 2,  # a key of `innbox bench --json`
    "outbox": 4,  # a name in a statement of a released version of the schema, which never changes
}


@dataclass(frozen=True)
class Found:
    path: Path
    phrase: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}: {self.phrase!r}; write: {self.instead}"


@cache
def banned() -> dict[re.Pattern[str], str]:
    """Return each banned pattern with what to write instead."""
    listed = tomllib.loads((ROOT / "docs" / "words.toml").read_text())["banned"]
    return {re.compile(one["pattern"], re.IGNORECASE): one["instead"] for one in listed}


def phrases(text: str) -> Iterator[tuple[str, str]]:
    """Yield the banned phrases of a text, each with what to write instead."""
    for paragraph in re.split(r"\n\s*\n|\n(?=[|#*-] ?)", text):
        flat = " ".join(paragraph.split())
        for pattern, instead in banned().items():
            for match in pattern.finditer(flat):
                yield match[0].strip(), instead


def in_documents() -> list[Found]:
    """Return what the documents must not have."""
    pages = [page for name in DOCUMENTS for page in sorted(ROOT.glob(name)) if page.is_file()]
    return [
        Found(page, *phrase)
        for page in pages
        if page.suffix in {".md", ".yaml", ".py"}
        for phrase in phrases(QUOTED.sub("…", page.read_text()))
    ]


def in_module(path: Path) -> Iterator[Found]:
    """Yield what the strings and comments of a module must not have."""
    code = path.read_text()
    strings = (
        node.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = (token.string for token in tokens if token.type == tokenize.COMMENT)
    for written in chain(strings, comments):
        for phrase in phrases(QUOTED.sub("…", written)):
            yield Found(path, *phrase)


@cache
def in_product() -> dict[str, list[Found]]:
    """Return what each package of the product still has."""
    return {
        room: [found for path in sorted((ROOT / room).rglob("*.py")) for found in in_module(path)]
        for room in rooms()
    }


def rooms() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [room for room in project["tool"]["mypy"]["packages"] if room != "tests"]


def main() -> int:
    documents, product = in_documents(), in_product()
    over = [room for room, found in product.items() if len(found) > CEILINGS.get(room, 0)]
    shown = [*documents, *(found for room in over for found in product[room])]
    if "--all" in sys.argv:
        shown = [*documents, *(found for room in product.values() for found in room)]
    counts = [
        f"{room}: {len(found)} (at most {CEILINGS.get(room, 0)})" for room, found in product.items()
    ]
    lines = [*map(str, shown), f"documents: {len(documents)} (at most 0)", *counts]
    sys.stdout.write("banned phrases, see docs/words.toml\n" + "\n".join(lines) + "\n")
    return 1 if documents or over else 0


if __name__ == "__main__":
    sys.exit(main())

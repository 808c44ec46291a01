"""`python -m ops.local.pin 4.4.0` writes jars.lock for another version of Kafka.

It resolves the version's dependencies once, so that every machine fetches exactly the same files and
verifies their checksums.
"""

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from jgo.maven import MavenContext

from ops.local.jars import LOCK

# The logging that Kafka's distribution adds to its published dependencies.
EXTRA = "org.apache.logging.log4j:log4j-slf4j-impl:{log4j}"


def main(version: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        maven = MavenContext(repo_cache=Path(scratch), timeout=60)
        kafka = _resolve(maven, f"org.apache.kafka:kafka_2.13:{version}")
        log4j = next(each.version for each in kafka if each.artifactId == "log4j-core")
        found = {}
        for each in [*kafka, *_resolve(maven, EXTRA.format(log4j=log4j))]:
            name = f"{each.groupId}:{each.artifactId}:{each.version}"
            jar = each.artifact.resolve().read_bytes()
            found[name] = f"{name} {len(jar)} {hashlib.sha256(jar).hexdigest()}\n"
        LOCK.write_text("".join(found.values()))


def _resolve(maven: Any, coordinate: str) -> list[Any]:  # noqa: ANN401 - jgo ships no types
    inputs, transitive = maven.resolver.resolve([maven.create_dependency(coordinate)])
    return [*inputs, *transitive]


if __name__ == "__main__":
    main(sys.argv[1])

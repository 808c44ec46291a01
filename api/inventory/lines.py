"""A body that streams in, cut into lines; no more is kept than the line that is not whole yet."""

LINE_BYTES_MAX = 4_096


class Lines:
    """Lines without their ends; None stands for one that is too long."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """Return the lines that this chunk brings to an end."""
        whole = (self._rest + chunk).split(b"\n")
        # A byte more than is allowed is enough to know that the line is too long.
        self._rest = whole.pop()[: LINE_BYTES_MAX + 1]
        return [_bounded(line) for line in whole]

    def end(self) -> list[bytes | None]:
        """Return the last line, which needs no end."""
        rest, self._rest = self._rest, b""
        return [_bounded(rest)] if rest else []


def _bounded(line: bytes) -> bytes | None:
    return line if len(line) <= LINE_BYTES_MAX else None

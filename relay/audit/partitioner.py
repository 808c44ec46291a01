"""Which partition a key belongs to, as the relay's partitioner and Java's clients reckon it.

murmur2, by Austin Appleby, with the seed that Kafka gives it.
"""

_SEED, _M, _32_BITS = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


def partition_of(key: str, partitions: int) -> int:
    """Return the key's partition of so many; -1 where there are none."""
    return (_murmur2(key.encode()) & 0x7FFFFFFF) % partitions if partitions else -1


def _murmur2(content: bytes) -> int:
    mixed = _SEED ^ len(content)
    whole = len(content) // 4 * 4
    for at in range(0, whole, 4):
        word = int.from_bytes(content[at : at + 4], "little") * _M & _32_BITS
        word = (word ^ word >> 24) * _M & _32_BITS
        mixed = (mixed * _M & _32_BITS) ^ word
    if rest := content[whole:]:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * _M & _32_BITS
    mixed = (mixed ^ mixed >> 13) * _M & _32_BITS
    return mixed ^ mixed >> 15

"""Producing what the Python client refuses: others may name a header in any bytes."""

from ctypes import CDLL, c_char_p, c_int, c_size_t, c_ssize_t, c_void_p, create_string_buffer

from confluent_kafka import cimpl

_END, _TOPIC, _PARTITION, _VALUE, _HEADERS = 0, 1, 3, 4, 10  # rd_kafka_vtype_t
_PRODUCER = 0
_FLUSH_MS = 10_000


def produce_with_header(servers: str, topic: str, value: bytes, name: bytes) -> None:
    """Produce to partition 0 with one header, through the C library that the client is made of."""
    library = CDLL(cimpl.__file__)
    for constructor in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(library, constructor).restype = c_void_p
    complaint = create_string_buffer(512)
    conf = c_void_p(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(
        conf, b"bootstrap.servers", servers.encode(), complaint, c_size_t(512)
    )
    producer = c_void_p(library.rd_kafka_new(_PRODUCER, conf, complaint, c_size_t(512)))
    headers = c_void_p(library.rd_kafka_headers_new(c_size_t(1)))
    library.rd_kafka_header_add(headers, name, c_ssize_t(len(name)), b"x", c_ssize_t(1))
    assert not library.rd_kafka_producev(
        producer,
        *(c_int(_TOPIC), c_char_p(topic.encode())),
        *(c_int(_PARTITION), c_int(0)),
        *(c_int(_VALUE), c_char_p(value), c_size_t(len(value))),
        *(c_int(_HEADERS), headers),
        c_int(_END),
    )
    assert not library.rd_kafka_flush(producer, _FLUSH_MS)
    library.rd_kafka_destroy(producer)

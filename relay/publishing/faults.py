"""Whose fault it is that a message was not taken: a table whose rows are the errors of the client.

    fault      what it is about                                  the relay
    MESSAGE    the message itself                                blocks its key; all other keys go on
    SETUP      a clock, a topic, a right, a setting              waits, and says what to check
    OUTAGE     brokers or the network, for a while               waits
    PRODUCER   the state of this producer                        goes on with a new one
    LOST       records that brokers acknowledged and lost        says so, goes on with a new producer
    FENCED     another relay has the shard                       gives the shard up
    FOLLOWING  another error, which failed this message, too     looks for that error
    UNRELATED  consumers, groups, administration                 waits; a producer never hears of it

Each of them ends a producer, and MESSAGE alone is held against a message. An error that the table does
not know, since a newer client has more of them, is waited for; a test names it.
"""

from enum import Enum, auto

from confluent_kafka import KafkaError


class Fault(Enum):
    """What an error is about; see the module."""

    MESSAGE = auto()
    SETUP = auto()
    OUTAGE = auto()
    PRODUCER = auto()
    LOST = auto()
    FENCED = auto()
    FOLLOWING = auto()
    UNRELATED = auto()


# Names of librdkafka's errors, as `KafkaError` has them.
ROWS: dict[Fault, str] = {
    # INVALID_RECORD is also said of several messages with wrong timestamps; of one alone it is true.
    # TOPIC_EXCEPTION is a name that no topic can have, or a topic that brokers keep for themselves.
    # _INVALID_ARG is what `produce` says of its arguments, which are the message's.
    Fault.MESSAGE: """
        MSG_SIZE_TOO_LARGE RECORD_LIST_TOO_LARGE INVALID_MSG INVALID_MSG_SIZE INVALID_RECORD
        TOPIC_EXCEPTION _INVALID_ARG
    """,
    Fault.SETUP: """
        INVALID_TIMESTAMP POLICY_VIOLATION UNKNOWN_TOPIC_OR_PART UNKNOWN_TOPIC_ID INCONSISTENT_TOPIC_ID
        TOPIC_AUTHORIZATION_FAILED CLUSTER_AUTHORIZATION_FAILED TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        UNSUPPORTED_COMPRESSION_TYPE UNSUPPORTED_FOR_MESSAGE_FORMAT UNSUPPORTED_VERSION
        INVALID_REQUIRED_ACKS INVALID_TRANSACTION_TIMEOUT INVALID_CONFIG INVALID_REQUEST
        INVALID_PARTITIONS INVALID_REPLICATION_FACTOR INVALID_REPLICA_ASSIGNMENT
        UNSUPPORTED_SASL_MECHANISM ILLEGAL_SASL_STATE SASL_AUTHENTICATION_FAILED SECURITY_DISABLED
        DELEGATION_TOKEN_AUTH_DISABLED DELEGATION_TOKEN_AUTHORIZATION_FAILED DELEGATION_TOKEN_EXPIRED
        DELEGATION_TOKEN_NOT_FOUND DELEGATION_TOKEN_OWNER_MISMATCH
        DELEGATION_TOKEN_REQUEST_NOT_ALLOWED INVALID_PRINCIPAL_TYPE UNACCEPTABLE_CREDENTIAL
        MISMATCHED_ENDPOINT_TYPE UNSUPPORTED_ENDPOINT_TYPE
        _UNKNOWN_TOPIC _UNKNOWN_PARTITION _AUTHENTICATION _SSL _BAD_COMPRESSION _NOT_IMPLEMENTED
        _NOT_CONFIGURED _UNSUPPORTED_FEATURE _UNKNOWN_PROTOCOL _INVALID_TYPE
    """,
    # _BAD_MSG is an answer of the brokers that cannot be read, whatever the message was.
    Fault.OUTAGE: """
        UNKNOWN LEADER_NOT_AVAILABLE NOT_LEADER_FOR_PARTITION REQUEST_TIMED_OUT BROKER_NOT_AVAILABLE
        REPLICA_NOT_AVAILABLE STALE_CTRL_EPOCH NETWORK_EXCEPTION NOT_CONTROLLER
        COORDINATOR_LOAD_IN_PROGRESS COORDINATOR_NOT_AVAILABLE NOT_COORDINATOR
        TRANSACTION_COORDINATOR_FENCED CONCURRENT_TRANSACTIONS OPERATION_NOT_ATTEMPTED
        NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND KAFKA_STORAGE_ERROR LOG_DIR_NOT_FOUND
        REASSIGNMENT_IN_PROGRESS LISTENER_NOT_FOUND FENCED_LEADER_EPOCH UNKNOWN_LEADER_EPOCH
        STALE_BROKER_EPOCH OFFSET_NOT_AVAILABLE PREFERRED_LEADER_NOT_AVAILABLE
        ELIGIBLE_LEADERS_NOT_AVAILABLE THROTTLING_QUOTA_EXCEEDED REBOOTSTRAP_REQUIRED
        PRINCIPAL_DESERIALIZATION_FAILURE
        _BAD_MSG _FAIL _TRANSPORT _CRIT_SYS_RESOURCE _RESOLVE _MSG_TIMED_OUT _ALL_BROKERS_DOWN
        _TIMED_OUT _TIMED_OUT_QUEUE _QUEUE_FULL _ISR_INSUFF _NODE_UPDATE _WAIT_COORD _WAIT_CACHE
        _IN_PROGRESS _PREV_IN_PROGRESS _INTR _PARTIAL _UNDERFLOW _RETRY _UNKNOWN_BROKER
        _DESTROY_BROKER
    """,
    Fault.PRODUCER: """
        DUPLICATE_SEQUENCE_NUMBER INVALID_TXN_STATE INVALID_PRODUCER_ID_MAPPING TRANSACTION_ABORTABLE
        _CONFLICT _OUTDATED _APPLICATION _DESTROY
    """,
    Fault.LOST: "OUT_OF_ORDER_SEQUENCE_NUMBER UNKNOWN_PRODUCER_ID",
    Fault.FENCED: "_FENCED PRODUCER_FENCED INVALID_PRODUCER_EPOCH",
    Fault.FOLLOWING: """
        _INVALID_DIFFERENT_RECORD _PURGE_QUEUE _PURGE_INFLIGHT _FATAL _STATE _GAPLESS_GUARANTEE
        _INCONSISTENT
    """,
    Fault.UNRELATED: """
        OFFSET_OUT_OF_RANGE OFFSET_METADATA_TOO_LARGE ILLEGAL_GENERATION INCONSISTENT_GROUP_PROTOCOL
        INVALID_GROUP_ID UNKNOWN_MEMBER_ID INVALID_SESSION_TIMEOUT REBALANCE_IN_PROGRESS
        INVALID_COMMIT_OFFSET_SIZE GROUP_AUTHORIZATION_FAILED TOPIC_ALREADY_EXISTS NON_EMPTY_GROUP
        GROUP_ID_NOT_FOUND FETCH_SESSION_ID_NOT_FOUND INVALID_FETCH_SESSION_EPOCH
        TOPIC_DELETION_DISABLED MEMBER_ID_REQUIRED GROUP_MAX_SIZE_REACHED FENCED_INSTANCE_ID
        ELECTION_NOT_NEEDED NO_REASSIGNMENT_IN_PROGRESS GROUP_SUBSCRIBED_TO_TOPIC
        UNSTABLE_OFFSET_COMMIT RESOURCE_NOT_FOUND DUPLICATE_RESOURCE INCONSISTENT_VOTER_SET
        INVALID_UPDATE_VERSION FEATURE_UPDATE_FAILED FENCED_MEMBER_EPOCH UNRELEASED_INSTANCE_ID
        UNSUPPORTED_ASSIGNOR STALE_MEMBER_EPOCH UNKNOWN_CONTROLLER_ID UNKNOWN_SUBSCRIPTION_ID
        TELEMETRY_TOO_LARGE INVALID_REGISTRATION INVALID_RECORD_STATE SHARE_SESSION_NOT_FOUND
        INVALID_SHARE_SESSION_EPOCH FENCED_STATE_EPOCH INVALID_VOTER_KEY DUPLICATE_VOTER
        VOTER_NOT_FOUND INVALID_REGULAR_EXPRESSION STREAMS_INVALID_TOPOLOGY
        STREAMS_INVALID_TOPOLOGY_EPOCH STREAMS_TOPOLOGY_FENCED SHARE_SESSION_LIMIT_REACHED
        _PARTITION_EOF _FS _UNKNOWN_GROUP _EXISTING_SUBSCRIPTION _ASSIGN_PARTITIONS
        _REVOKE_PARTITIONS _NO_OFFSET _KEY_SERIALIZATION _VALUE_SERIALIZATION _KEY_DESERIALIZATION
        _VALUE_DESERIALIZATION _READ_ONLY _NOENT _MAX_POLL_EXCEEDED _ASSIGNMENT_LOST _NOOP
        _AUTO_OFFSET_RESET _LOG_TRUNCATION
    """,
}

_FAULTS: dict[int, Fault] = {
    getattr(KafkaError, name): fault for fault, names in ROWS.items() for name in names.split()
}

_LOST = (
    "the brokers have lost records that they had acknowledged; `innbox outbox audit` finds them and "
    "`innbox outbox audit --mend` publishes them again"
)
# What an operator does about it, where the brokers' own words do not say.
_ADVICE: dict[int, str] = {
    KafkaError.INVALID_TIMESTAMP: (
        "check the clocks of this machine and of the brokers, and the topic's "
        "message.timestamp.before.max.ms and message.timestamp.after.max.ms"
    ),
    KafkaError.UNKNOWN_TOPIC_OR_PART: "create the topic",
    KafkaError._UNKNOWN_TOPIC: "create the topic",  # noqa: SLF001 - so it is named in public, too
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "grant the relay's user Describe and Write on the topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "grant the relay's user IdempotentWrite on the cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        "grant the relay's user Describe and Write on the transactional id"
    ),
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE: "check compression.type in KAFKA_PROPERTIES",
    KafkaError.INVALID_TRANSACTION_TIMEOUT: "check transaction.timeout.ms in KAFKA_PROPERTIES",
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER: _LOST,
    KafkaError.UNKNOWN_PRODUCER_ID: _LOST,
}


def fault_of(error: KafkaError) -> Fault:
    """Return whose fault an error is; one that the table does not know is waited for."""
    return _FAULTS.get(error.code(), Fault.UNRELATED)


def explained(error: KafkaError, topic: str | None) -> str:
    """Say what went wrong, with which topic if that is known, and what to do about it."""
    words = [f"topic {topic}: " if topic else "", str(error.str())]
    if advice := _ADVICE.get(error.code()):
        words.append(f"; {advice}")
    return "".join(words)

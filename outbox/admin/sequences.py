"""Sequences that are behind: a copy of a database may bring rows and leave the sequences where they were.

Logical replication does, and so does a dump of the data alone. Then a sequence gives out what its column
has already: an id collides, or, where nothing forbids it, two rows are taken for one. The catalogue is
asked which there are: those of identity and serial columns, and those that the default of an integer
column draws from, of every schema. What the tables mean is not known here.
"""

from dataclasses import dataclass, replace

from sqlalchemy import BigInteger, Boolean, Connection, column, func, select, table, text

# In the order of the fields of `Sequence`. Partitions have the defaults of their table, which speaks for
# all of them.
SEQUENCES = text("""
    SELECT DISTINCT sequence_schema.nspname AS sequence_schema, sequence.relname AS sequence,
           table_schema.nspname AS table_schema, owner.relname AS table, attname AS column
    FROM (
        SELECT objid, refobjid, refobjsubid FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
          AND deptype IN ('a', 'i')
        UNION ALL
        SELECT refobjid, adrelid, adnum
        FROM pg_depend JOIN pg_attrdef ON pg_attrdef.oid = objid
        WHERE classid = 'pg_attrdef'::regclass AND refclassid = 'pg_class'::regclass
    ) AS use (sequence_id, table_id, number)
    JOIN pg_class AS sequence ON sequence.oid = sequence_id AND sequence.relkind = 'S'
    JOIN pg_sequence ON seqrelid = sequence_id AND seqincrement > 0
    JOIN pg_class AS owner ON owner.oid = table_id AND NOT owner.relispartition
        AND owner.relpersistence <> 't' -- nobody reads the temporary tables of others
    JOIN pg_attribute ON attrelid = table_id AND attnum = number
        AND atttypid IN ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype)
    JOIN pg_namespace AS sequence_schema ON sequence_schema.oid = sequence.relnamespace
    JOIN pg_namespace AS table_schema ON table_schema.oid = owner.relnamespace
    WHERE CAST(:schema AS text) IS NULL OR table_schema.nspname = CAST(:schema AS text)
    ORDER BY sequence_schema, sequence, table_schema, "table", "column"
""")
# Row-level security would hide rows, and with them what is taken: rather fail.
SHOW_ALL = text("SET LOCAL row_security = off")
# Writers to the table wait behind this meanwhile.
LOCK_TIMEOUT_MS = 2_000


@dataclass(frozen=True, slots=True)
class Sequence:
    """A sequence, with the column that it is for, and how far either is."""

    schema: str
    name: str
    table_schema: str
    table: str
    column: str
    next_value: int = 0
    highest: int | None = None

    @property
    def is_behind(self) -> bool:
        return self.highest is not None and self.next_value <= self.highest


def sequences_behind(connection: Connection, schema: str | None = None) -> list[Sequence]:
    """Return the sequences of one schema's tables, or of all, that would give out what is taken.

    Locks nothing. Raises if not all rows may be seen.
    """
    connection.execute(SHOW_ALL)
    found = connection.execute(SEQUENCES, {"schema": schema})
    every = [_measured(connection, Sequence(*row)) for row in found]
    return [sequence for sequence in every if sequence.is_behind]


def advance_sequence(connection: Connection, sequence: Sequence) -> Sequence | None:
    """Set a sequence to what its column has; returns how it was, or None if it was not behind any more.

    Its table is locked against writers until the transaction ends, so that the sequence is never set
    back below what one of them has drawn. A lock that is not had in `LOCK_TIMEOUT_MS` raises. What is
    set stays so, even if the transaction is rolled back. Needs the rights of the table's owner.
    """
    connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
    quoted = connection.dialect.identifier_preparer.format_table
    name = quoted(table(sequence.table, schema=sequence.table_schema))
    connection.execute(text(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE"))
    connection.execute(SHOW_ALL)
    found = _measured(connection, sequence)
    if not found.is_behind:
        return None
    of = func.to_regclass(quoted(table(sequence.name, schema=sequence.schema)))
    connection.execute(select(func.setval(of, found.highest)))
    return found


def _measured(connection: Connection, sequence: Sequence) -> Sequence:
    """Read a sequence and its column. The column first: the sequence may only have moved on since."""
    of_rows = table(sequence.table, schema=sequence.table_schema)
    highest = connection.scalar(select(func.max(column(sequence.column))).select_from(of_rows))
    state = select(column("last_value", BigInteger), column("is_called", Boolean))
    last_value, is_called = connection.execute(
        state.select_from(table(sequence.name, schema=sequence.schema))
    ).one()
    return replace(sequence, next_value=last_value + is_called, highest=highest)

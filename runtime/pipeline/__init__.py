"""Transactions in one round trip, sent by the event loop itself, for the request that must be fast.

    rows = await pool.execute(statements, after_commit=doorbell.ring)

`roundtrip` runs the statements of one transaction on one connection; `PipelinePool` lends the connection.
"""

from runtime.pipeline.pool import PipelinePool
from runtime.pipeline.roundtrip import Rows, Statement, in_one_round_trip

__all__ = ["PipelinePool", "Rows", "Statement", "in_one_round_trip"]

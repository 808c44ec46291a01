"""Benchmarks: each compares ours with a baseline in the same run, because machines differ and drift.

A ratio is the median of ours over the median of the baseline, the two measured in turn. Everything is
bounded in messages, and so in time.
"""

from ops.bench.consumer import bench_consumer
from ops.bench.measure import Comparison
from ops.bench.relay import bench_relay

__all__ = ["Comparison", "bench_consumer", "bench_relay"]

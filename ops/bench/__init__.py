"""Benchmarks: throughput, latency and cost, beside a baseline of the same run where there is one.

Machines differ and drift: a ratio is the candidate's median over the baseline's, the two measured in
turn, and the first round warms up. Every run is bounded in messages or seconds, and so in time.
"""

from ops.bench.api import bench_api
from ops.bench.consumer import bench_consumer
from ops.bench.contention import bench_contention
from ops.bench.cost import bench_cost
from ops.bench.end_to_end import bench_end_to_end
from ops.bench.growth import bench_growth
from ops.bench.inventory import bench_inventory
from ops.bench.latency import bench_latency
from ops.bench.measure import Comparison, Measured, Times
from ops.bench.relay import bench_relay
from ops.bench.writers import bench_writers

__all__ = [
    "Comparison",
    "Measured",
    "Times",
    "bench_api",
    "bench_consumer",
    "bench_contention",
    "bench_cost",
    "bench_end_to_end",
    "bench_growth",
    "bench_inventory",
    "bench_latency",
    "bench_relay",
    "bench_writers",
]

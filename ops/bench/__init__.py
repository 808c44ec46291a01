"""Benchmarks: throughput, latency and cost, beside a baseline of the same run where there is one.

Machines differ and drift: a ratio is the candidate's median over the baseline's, the two measured in
turn, and the first round warms up. Every run is bounded in messages or seconds, and so in time.
"""

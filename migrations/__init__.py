"""Migrations: one history for every database of innbox.

The contexts may live in one database or in two; each gets all the schemas, so that there is one history
to reason about and a context can move without a migration of its own.
"""

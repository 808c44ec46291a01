"""Migrations: one history for every database of innbox.

The contexts may share a database or have one each. Every database gets all the schemas, so that there is
one history, and a context can move without a migration of its own.
"""

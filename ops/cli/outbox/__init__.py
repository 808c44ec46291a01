"""`innbox outbox`: the outbox as an operator sees it, one file for each group of commands."""

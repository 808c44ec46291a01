"""What a process stands on: its database, its brokers, health, logs, timed jobs and a graceful stop.

Nothing here knows what the process is for, nor where its settings come from; `config` says which ones
are needed.
"""

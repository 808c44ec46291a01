"""The API as processes with a socket: how they start, serve and end."""

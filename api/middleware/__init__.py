"""What goes around every route: hosts, traces, metrics, headers, and what becomes of errors."""

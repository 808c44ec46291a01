"""What an operator's commands do to shards and messages, beside the relays that run."""

"""What a request says, read strictly: what cannot be understood is refused, not guessed."""

"""What a request says, read strictly: what cannot be understood is refused, not guessed.

But for headers that their standards have us pass over: an invalid `traceparent`, an unknown preference.
"""

"""What a request says, read strictly: what cannot be understood is refused, not guessed.

Except for headers whose standards say to ignore them: an invalid `traceparent`, an unknown preference.
"""

"""What a receiver of lines tells their sender, whichever of the two we are."""

import enum


class Answer(enum.Enum):
    """What became of a line."""

    STORED = "stored"
    AGAIN = "again"
    """Not stored: it is to be sent once more."""
    NEVER = "never"
    """Not stored: it is to be given up."""

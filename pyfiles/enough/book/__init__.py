"""Claims and their ledger, glued numbers, exercises: what a chapter says to its page."""

from enough.book import exercises
from enough.book.claims import Claim, UnexpectedVerdictError, claim, judge
from enough.book.glue import glue
from enough.book.intervals import mean_interval

__all__ = [
    "Claim",
    "UnexpectedVerdictError",
    "claim",
    "exercises",
    "glue",
    "judge",
    "mean_interval",
]

"""The error a user sees: one sentence that names the thing and the remedy."""


class KaokenError(Exception):
    """Something the user can mend. The command-line tools print it without a traceback."""


class MarkedError(KaokenError):
    """One whose text goes on after the sentence: with the user's line, and a mark below it."""

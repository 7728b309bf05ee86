"""Prints loop IR as C11: text, names, scalar expressions, vector nests, statements."""

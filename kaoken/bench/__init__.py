"""`kaoken bench`: kaoken and its peers side by side, beside what the machine could do at most."""

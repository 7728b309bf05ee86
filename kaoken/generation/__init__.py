"""Generating text with a compiled decoder: numpy alone, no torch.

options.py      what `generate` may be told, with transformers' names and defaults
processors.py   temperature, top-k, top-p ... on logits, as transformers' logit processors
choice.py       the next token of one sequence: the likeliest, or a drawn one
text.py         tokens as text while they come, and stop strings
"""

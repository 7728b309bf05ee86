"""What options may be, by name: for the compiler, its passes and its command line.

Nothing is imported here, so that tools know their options before they load anything.
"""

FEW_BITS = ("int6", "int5", "int4", "int3", "int2", "ternary", "int1")
DTYPES = ("auto", "f32", "bf16", "int8", *FEW_BITS)
"""Of the weights."""
GROUP_SIZE = 32
"""How many weights of few bits share a scale, unless told otherwise."""
ACTIVATIONS = ("dynamic", "static")
"""How int8 scales the inputs of its layers."""
MATHS = ("exact", "quake1", "quake2")
KV_TYPES = ("f32", "bf16", "int8")
"""Of keys and values in caches."""

"""What options may be, by name: for the compiler, its passes and its command line.

Nothing is imported here, so that tools know their options before they load anything.
"""

FEW_BITS = ("int6", "int5", "int4", "int3", "int2", "ternary", "int1")
MIXED = "mixed"
DTYPES = ("auto", "f32", "bf16", "int8", *FEW_BITS, MIXED)
"""Of the weights; `mixed` gives each as many bits as it is worth within a budget."""
GROUP_SIZE = 32
"""How many weights of few bits share a scale, unless told otherwise."""
ACTIVATIONS = ("dynamic", "static")
"""How int8 scales the inputs of its layers."""
MATHS = ("exact", "quake1", "quake2")
KV_TYPES = ("f32", "bf16", "int8")
"""Of keys and values in caches."""

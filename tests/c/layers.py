"""Layers as MLIR that tests print as C at every loop stage: a linear layer of {n}, attention."""

from __future__ import annotations

LINEAR = """
func.func @main(%x: tensor<?x7xf32> {{kaoken.shape = #kaoken.shape<[rows, 7]>, kaoken.name = "x"}},
    %r: tensor<?x{n}xf32> {{kaoken.shape = #kaoken.shape<[rows, {n}]>, kaoken.name = "r"}})
    -> tensor<?x{n}xf32> attributes {{kaoken.max = {{rows = 129}}}} {{
  %w = kaoken.weight "w" : tensor<{n}x7xf32>
  %b = kaoken.weight "b" : tensor<{n}xf32>
  %g = kaoken.weight "g" : tensor<{n}xf32>
  %y = kaoken.linear %x, %w bias %b : tensor<{n}xf32> residual %r : tensor<?x{n}xf32>
    norm_weight %g : tensor<{n}xf32> norm_bias %b : tensor<{n}xf32>
    {{activation = #kaoken<activation gelu>, norm = #kaoken<norm layer_norm>, eps = 1.0e-5 : f64}}
    : tensor<?x7xf32>, tensor<{n}x7xf32> -> tensor<?x{n}xf32>
  return %y : tensor<?x{n}xf32>
}}
"""

ATTENTION = """
func.func @main(
    %x: tensor<?x?x24xf32> {kaoken.shape = #kaoken.shape<[batch, tokens, 24]>, kaoken.name = "x"},
    %m: tensor<?x?xi1> {kaoken.shape = #kaoken.shape<[batch, tokens]>, kaoken.name = "m"})
    -> tensor<?x?x12xf32> attributes {kaoken.max = {batch = 3, tokens = 40}} {
  %q = kaoken.slice %x <[0, 12]> {dim = 2} : tensor<?x?x24xf32> -> tensor<?x?x12xf32>
  %k = kaoken.slice %x <[12, 18]> {dim = 2} : tensor<?x?x24xf32> -> tensor<?x?x6xf32>
  %v = kaoken.slice %x <[18, 24]> {dim = 2} : tensor<?x?x24xf32> -> tensor<?x?x6xf32>
  %mask = kaoken.reshape %m to <[batch, 1, 1, tokens]> : tensor<?x?xi1> -> tensor<?x1x1x?xi1>
  %y = kaoken.attention %q, %k, %v mask %mask : tensor<?x1x1x?xi1>
    {num_heads = 4, num_kv_heads = 2, scale = 0.5 : f64, causal = CAUSAL}
    : tensor<?x?x12xf32>, tensor<?x?x6xf32>, tensor<?x?x6xf32> -> tensor<?x?x12xf32>
  return %y : tensor<?x?x12xf32>
}
"""

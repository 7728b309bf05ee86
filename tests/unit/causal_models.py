"""Small causal models as MLIR: an embedding, attention, a body, logits."""

from __future__ import annotations

ROWS = "tensor<1x?x12xf32>"
VOCABULARY = 11


def model(body: str, attention: str = "causal = true", mask: str = "") -> str:
    """A model of 12 numbers a token, of which `body` makes %y from %x and %positions.

    `mask` makes %mask of %apart, how far each key is before each query.
    """
    masked = " mask %mask : " + mask.rpartition("-> ")[2].strip() if mask else ""
    return f"""
    func.func @main(%ids: tensor<1x?xi64> {{kaoken.shape = #kaoken.shape<[1, tokens]>}})
        -> tensor<1x?x{VOCABULARY}xf32> attributes {{kaoken.max = {{tokens = 130 : i64}}}} {{
      %table = kaoken.weight "table" : tensor<{VOCABULARY}x12xf32>
      %e = kaoken.embedding %table, %ids
        : tensor<{VOCABULARY}x12xf32>, tensor<1x?xi64> -> {ROWS}
      %positions = kaoken.iota <[tokens]> : tensor<?xi64>
      %place = kaoken.cast %positions : tensor<?xi64> -> tensor<?xf32>
      %query = kaoken.reshape %place to <[tokens, 1]> : tensor<?xf32> -> tensor<?x1xf32>
      %apart = kaoken.elementwise sub %query, %place
        : tensor<?x1xf32>, tensor<?xf32> -> tensor<?x?xf32>
      %zero = kaoken.full 0.0 : f32 to <[]> : tensor<f32>
      %three = kaoken.full 3.0 : f32 to <[]> : tensor<f32>
      %hidden = kaoken.full -3.4e38 : f32 to <[]> : tensor<f32>
      %slopes = kaoken.weight "slopes" : tensor<3x1x1xf32>
      %causal = kaoken.elementwise ge %apart, %zero : tensor<?x?xf32>, tensor<f32> -> tensor<?x?xi1>
      {mask}
      %a = kaoken.attention %e, %e, %e{masked}
        {{num_heads = 3 : i64, scale = 0.5 : f64, {attention}}}
        : {ROWS}, {ROWS}, {ROWS} -> {ROWS}
      %x = kaoken.elementwise add %e, %a : {ROWS}, {ROWS} -> {ROWS}
      {body}
      %logits = kaoken.linear %y, %table
        : {ROWS}, tensor<{VOCABULARY}x12xf32> -> tensor<1x?x{VOCABULARY}xf32>
      func.return %logits : tensor<1x?x{VOCABULARY}xf32>
    }}"""


BODIES = {
    "nothing": f"%y = kaoken.silu %x : {ROWS} -> {ROWS}",
    "learned positions": f"""
      %all = kaoken.weight "positions" : tensor<140x12xf32>
      %p = kaoken.slice %all <[2, "tokens + 2"]> {{dim = 0 : i64}}
        : tensor<140x12xf32> -> tensor<?x12xf32>
      %y = kaoken.elementwise add %x, %p : {ROWS}, tensor<?x12xf32> -> {ROWS}""",
    "computed positions": f"""
      %column = kaoken.reshape %positions to <[1, tokens, 1]> : tensor<?xi64> -> tensor<1x?x1xi64>
      %f = kaoken.cast %column : tensor<1x?x1xi64> -> tensor<1x?x1xf32>
      %c = kaoken.elementwise cos %f : tensor<1x?x1xf32> -> tensor<1x?x1xf32>
      %y = kaoken.elementwise mul %x, %c : {ROWS}, tensor<1x?x1xf32> -> {ROWS}""",
    "tokens moved": f"""
      %t = kaoken.transpose %x [2, 1, 0] : {ROWS} -> tensor<12x?x1xf32>
      %flat = kaoken.reshape %t to <[3, 4, tokens]> : tensor<12x?x1xf32> -> tensor<3x4x?xf32>
      %s = kaoken.silu %flat : tensor<3x4x?xf32> -> tensor<3x4x?xf32>
      %back = kaoken.reshape %s to <[12, tokens, 1]> : tensor<3x4x?xf32> -> tensor<12x?x1xf32>
      %y = kaoken.transpose %back [2, 1, 0] : tensor<12x?x1xf32> -> {ROWS}""",
}

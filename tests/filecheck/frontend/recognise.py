# RUN: python %s | filecheck %s
# ruff: noqa: E501
"""The recognising rewrites, on text: no torch is needed for them."""

from kaoken.frontend.recognise import recognise
from kaoken.modules import parse_module

TEXT = """
func.func @gelu(%x: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %half = kaoken.full 0.5 : f32 to <[]> : tensor<f32>
  %one = kaoken.full 1.0 : f32 to <[]> : tensor<f32>
  %root = kaoken.full 1.41421354 : f32 to <[]> : tensor<f32>
  %a = kaoken.elementwise mul %x, %half : tensor<?x8xf32>, tensor<f32> -> tensor<?x8xf32>
  %b = kaoken.elementwise div %x, %root : tensor<?x8xf32>, tensor<f32> -> tensor<?x8xf32>
  %c = kaoken.elementwise erf %b : tensor<?x8xf32> -> tensor<?x8xf32>
  %d = kaoken.elementwise add %c, %one : tensor<?x8xf32>, tensor<f32> -> tensor<?x8xf32>
  %y = kaoken.elementwise mul %a, %d : tensor<?x8xf32>, tensor<?x8xf32> -> tensor<?x8xf32>
  func.return %y : tensor<?x8xf32>
}

// Rows and columns that are just counted pick every element; no position is negative.
func.func @mask(%m: tensor<?x?xi1> {kaoken.shape = #kaoken.shape<[b, t]>})
    -> tensor<?x1x1x?xi1> attributes {kaoken.max = {b = 4, t = 16}} {
  %zero = kaoken.full 0 : i64 to <[]> : tensor<i64>
  %b = kaoken.iota <[b]> : tensor<?xi64>
  %t = kaoken.iota <[t]> : tensor<?xi64>
  %rows = kaoken.reshape %b to <[b, 1, 1, 1]> : tensor<?xi64> -> tensor<?x1x1x1xi64>
  %columns = kaoken.reshape %t to <[1, 1, 1, t]> : tensor<?xi64> -> tensor<1x1x1x?xi64>
  %seen = kaoken.elementwise ge %columns, %zero : tensor<1x1x1x?xi64>, tensor<i64> -> tensor<1x1x1x?xi1>
  %picked = kaoken.gather %m at %rows, %columns along [0, 1] : tensor<?x?xi1> at tensor<?x1x1x1xi64>, tensor<1x1x1x?xi64> -> tensor<?x1x1x?xi1>
  %y = kaoken.elementwise and %seen, %picked : tensor<1x1x1x?xi1>, tensor<?x1x1x?xi1> -> tensor<?x1x1x?xi1>
  func.return %y : tensor<?x1x1x?xi1>
}

// A chain of movements that puts everything back.
func.func @movements(%x: tensor<?x?x24xf32> {kaoken.shape = #kaoken.shape<[t, b, 24]>})
    -> tensor<?x?x24xf32> {
  %0 = kaoken.reshape %x to <[t, "3*b", 8]> : tensor<?x?x24xf32> -> tensor<?x?x8xf32>
  %1 = kaoken.transpose %0 [1, 0, 2] : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %2 = kaoken.reshape %1 to <[b, 3, t, 8]> : tensor<?x?x8xf32> -> tensor<?x3x?x8xf32>
  %3 = kaoken.transpose %2 [2, 0, 1, 3] : tensor<?x3x?x8xf32> -> tensor<?x?x3x8xf32>
  %4 = kaoken.reshape %3 to <[t, b, 24]> : tensor<?x?x3x8xf32> -> tensor<?x?x24xf32>
  func.return %4 : tensor<?x?x24xf32>
}
"""

module = parse_module(TEXT)
recognise(module)
print(module)

# CHECK-LABEL: func.func @gelu
# CHECK-NEXT:  %[[Y:.*]] = kaoken.gelu %x : tensor<?x8xf32> -> tensor<?x8xf32>
# CHECK-NEXT:  func.return %[[Y]]

# CHECK-LABEL: func.func @mask
# CHECK-NEXT:  %[[Y:.*]] = kaoken.reshape %m to <[b, 1, 1, t]> : tensor<?x?xi1> -> tensor<?x1x1x?xi1>
# CHECK-NEXT:  func.return %[[Y]]

# CHECK-LABEL: func.func @movements
# CHECK-NEXT:  func.return %x : tensor<?x?x24xf32>

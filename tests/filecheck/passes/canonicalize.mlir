// RUN: kaoken-opt %s -p canonicalize | filecheck %s

// Heads taken apart and put together again.
func.func @heads(%x: tensor<?x?x384xf32> {kaoken.shape = #kaoken.shape<[batch, tokens, 384]>}) -> tensor<?x?x384xf32> {
  %a = kaoken.reshape %x to <[batch, tokens, 12, 32]> : tensor<?x?x384xf32> -> tensor<?x?x12x32xf32>
  %b = kaoken.transpose %a [0, 2, 1, 3] : tensor<?x?x12x32xf32> -> tensor<?x12x?x32xf32>
  %c = kaoken.transpose %b [0, 2, 1, 3] : tensor<?x12x?x32xf32> -> tensor<?x?x12x32xf32>
  %d = kaoken.reshape %c to <[batch, tokens, 384]> : tensor<?x?x12x32xf32> -> tensor<?x?x384xf32>
  return %d : tensor<?x?x384xf32>
}
// CHECK-LABEL: func.func @heads
// CHECK-NEXT:    return %x

// The same with batch and heads merged in between.
func.func @merged_heads(%x: tensor<?x?x384xf32> {kaoken.shape = #kaoken.shape<[batch, tokens, 384]>}) -> tensor<?x?x384xf32> {
  %a = kaoken.reshape %x to <[batch, tokens, 12, 32]> : tensor<?x?x384xf32> -> tensor<?x?x12x32xf32>
  %b = kaoken.transpose %a [0, 2, 1, 3] : tensor<?x?x12x32xf32> -> tensor<?x12x?x32xf32>
  %c = kaoken.reshape %b to <["12*batch", tokens, 32]> : tensor<?x12x?x32xf32> -> tensor<?x?x32xf32>
  %d = kaoken.reshape %c to <[batch, 12, tokens, 32]> : tensor<?x?x32xf32> -> tensor<?x12x?x32xf32>
  %e = kaoken.transpose %d [0, 2, 1, 3] : tensor<?x12x?x32xf32> -> tensor<?x?x12x32xf32>
  %f = kaoken.reshape %e to <[batch, tokens, 384]> : tensor<?x?x12x32xf32> -> tensor<?x?x384xf32>
  return %f : tensor<?x?x384xf32>
}
// CHECK-LABEL: func.func @merged_heads
// CHECK-NEXT:    return %x

// A transpose that only moves sizes of 1 is a reshape.
func.func @ones(%x: tensor<1x?x4xf32> {kaoken.shape = #kaoken.shape<[1, n, 4]>}) -> tensor<?x1x4xf32> {
  %a = kaoken.transpose %x [1, 0, 2] : tensor<1x?x4xf32> -> tensor<?x1x4xf32>
  return %a : tensor<?x1x4xf32>
}
// CHECK-LABEL: func.func @ones
// CHECK-NEXT:    kaoken.reshape %x to <[n, 1, 4]>

// The reshape between two transposes splits a dimension.
func.func @split(%x: tensor<2x3x12xf32>) -> tensor<2x4x3x3xf32> {
  %a = kaoken.transpose %x [0, 2, 1] : tensor<2x3x12xf32> -> tensor<2x12x3xf32>
  %b = kaoken.reshape %a to <[2, 4, 3, 3]> : tensor<2x12x3xf32> -> tensor<2x4x3x3xf32>
  %c = kaoken.transpose %b [0, 1, 3, 2] : tensor<2x4x3x3xf32> -> tensor<2x4x3x3xf32>
  return %c : tensor<2x4x3x3xf32>
}
// CHECK-LABEL: func.func @split
// CHECK-NEXT:    %{{.*}} = kaoken.reshape %x to <[2, 3, 4, 3]>
// CHECK-NEXT:    %{{.*}} = kaoken.transpose %{{.*}} {{\[0, 2, 1, 3\]}}
// CHECK-NEXT:    return

// A whole slice, and a slice of a slice.
func.func @slices(%x: tensor<?x20xf32> {kaoken.shape = #kaoken.shape<[n, 20]>}) -> tensor<?x4xf32> {
  %a = kaoken.slice %x <[0, n]> {dim = 0} : tensor<?x20xf32> -> tensor<?x20xf32>
  %b = kaoken.slice %a <[2, 18]> {dim = 1, step = 2} : tensor<?x20xf32> -> tensor<?x8xf32>
  %c = kaoken.slice %b <[1, 8]> {dim = 1, step = 2} : tensor<?x8xf32> -> tensor<?x4xf32>
  return %c : tensor<?x4xf32>
}
// CHECK-LABEL: func.func @slices
// CHECK-NEXT:    kaoken.slice %x <[4, 17]> {dim = 1 : i64, step = 4 : i64}
// CHECK-NEXT:    return

func.func @concats(%x: tensor<2x8xf32>, %y: tensor<2x3xf32>) -> (tensor<2x8xf32>, tensor<2x3xf32>, tensor<2x2xf32>) {
  %a = kaoken.slice %x <[0, 5]> {dim = 1} : tensor<2x8xf32> -> tensor<2x5xf32>
  %b = kaoken.slice %x <[5, 8]> {dim = 1} : tensor<2x8xf32> -> tensor<2x3xf32>
  %c = kaoken.concat %a, %b {dim = 1} : tensor<2x5xf32>, tensor<2x3xf32> -> tensor<2x8xf32>
  %d = kaoken.concat %y {dim = 1} : tensor<2x3xf32> -> tensor<2x3xf32>
  %e = kaoken.concat %x, %y {dim = 1} : tensor<2x8xf32>, tensor<2x3xf32> -> tensor<2x11xf32>
  %f = kaoken.slice %e <[9, 11]> {dim = 1} : tensor<2x11xf32> -> tensor<2x2xf32>
  return %c, %d, %f : tensor<2x8xf32>, tensor<2x3xf32>, tensor<2x2xf32>
}
// CHECK-LABEL: func.func @concats
// CHECK-NEXT:    [[F:%.*]] = kaoken.slice %y <[1, 3]> {dim = 1 : i64}
// CHECK-NEXT:    return %x, %y, [[F]]

func.func @casts(%x: tensor<4xi1>, %y: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) {
  %a = kaoken.cast %x : tensor<4xi1> -> tensor<4xi64>
  %b = kaoken.cast %a : tensor<4xi64> -> tensor<4xf32>
  %c = kaoken.cast %y : tensor<4xf32> -> tensor<4xf64>
  %d = kaoken.cast %c : tensor<4xf64> -> tensor<4xf32>
  %e = kaoken.cast %y : tensor<4xf32> -> tensor<4xf16>
  %f = kaoken.cast %e : tensor<4xf16> -> tensor<4xf32>
  return %b, %d, %f : tensor<4xf32>, tensor<4xf32>, tensor<4xf32>
}
// CHECK-LABEL: func.func @casts
// CHECK-NEXT:    [[B:%.*]] = kaoken.cast %x : tensor<4xi1> -> tensor<4xf32>
// CHECK-NEXT:    [[E:%.*]] = kaoken.cast %y : tensor<4xf32> -> tensor<4xf16>
// CHECK-NEXT:    [[F:%.*]] = kaoken.cast [[E]]
// CHECK-NEXT:    return [[B]], %y, [[F]]

// Numbers, neutral elements, conditions that are known.
func.func @numbers(%x: tensor<?x4xf32> {kaoken.shape = #kaoken.shape<[n, 4]>}, %m: tensor<?x4xi1> {kaoken.shape = #kaoken.shape<[n, 4]>}) -> (tensor<?x4xf32>, tensor<?x4xi1>, tensor<?x4xf32>) {
  %zero = kaoken.full 0 : i64 to <[]> : tensor<i64>
  %one = kaoken.full 1 : i64 to <[]> : tensor<i64>
  %i = kaoken.elementwise add %zero, %one : tensor<i64>, tensor<i64> -> tensor<i64>
  %f = kaoken.cast %i : tensor<i64> -> tensor<f32>
  %g = kaoken.broadcast %f to <[n, 4]> : tensor<f32> -> tensor<?x4xf32>
  %h = kaoken.elementwise mul %x, %g : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<?x4xf32>
  %t = kaoken.full true to <[n, 4]> : tensor<?x4xi1>
  %k = kaoken.elementwise and %t, %m : tensor<?x4xi1>, tensor<?x4xi1> -> tensor<?x4xi1>
  %s = kaoken.elementwise select %t, %h, %g : tensor<?x4xi1>, tensor<?x4xf32>, tensor<?x4xf32> -> tensor<?x4xf32>
  %two = kaoken.full 2.5 : f32 to <[n, 4]> : tensor<?x4xf32>
  %y = kaoken.elementwise maximum %x, %two : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<?x4xf32>
  return %s, %k, %y : tensor<?x4xf32>, tensor<?x4xi1>, tensor<?x4xf32>
}
// CHECK-LABEL: func.func @numbers
// CHECK-NEXT:    [[TWO:%.*]] = kaoken.full 2.500000e+00 : f32 to <[]> : tensor<f32>
// CHECK-NEXT:    [[Y:%.*]] = kaoken.elementwise maximum %x, [[TWO]]
// CHECK-NEXT:    return %x, %m, [[Y]]

// Elementwise functions and attention broadcast themselves.
func.func @broadcasts(%q: tensor<?x?x8xf32> {kaoken.shape = #kaoken.shape<[b, s, 8]>}, %m: tensor<?x1x1x?xi1> {kaoken.shape = #kaoken.shape<[b, 1, 1, s]>}) -> tensor<?x?x8xf32> {
  %w = kaoken.weight "shift" : tensor<8xf32>
  %a = kaoken.broadcast %w to <[1, 1, 8]> : tensor<8xf32> -> tensor<1x1x8xf32>
  %b = kaoken.broadcast %a to <[b, s, 8]> : tensor<1x1x8xf32> -> tensor<?x?x8xf32>
  %c = kaoken.elementwise sub %q, %b : tensor<?x?x8xf32>, tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %d = kaoken.broadcast %m to <[b, 1, s, s]> : tensor<?x1x1x?xi1> -> tensor<?x1x?x?xi1>
  %e = kaoken.attention %c, %q, %q mask %d : tensor<?x1x?x?xi1> {num_heads = 2, scale = 0.5 : f64} : tensor<?x?x8xf32>, tensor<?x?x8xf32>, tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  return %e : tensor<?x?x8xf32>
}
// CHECK-LABEL: func.func @broadcasts
// CHECK-NEXT:    [[W:%.*]] = kaoken.weight "shift"
// CHECK-NEXT:    [[C:%.*]] = kaoken.elementwise sub %q, [[W]]
// CHECK-NEXT:    kaoken.attention [[C]], %q, %q mask %m : tensor<?x1x1x?xi1>

// A matrix product with a weight is a linear layer; its bias and the reshapes around it join it.
func.func @layers(%x: tensor<?x?x3xf32> {kaoken.shape = #kaoken.shape<[b, s, 3]>}) -> tensor<?x?x5xf32> {
  %w = kaoken.weight "w" : tensor<3x5xf32>
  %a = kaoken.reshape %x to <["b*s", 3]> : tensor<?x?x3xf32> -> tensor<?x3xf32>
  %b = kaoken.matmul %a, %w : tensor<?x3xf32>, tensor<3x5xf32> -> tensor<?x5xf32>
  %v = kaoken.weight "b" : tensor<5xf32>
  %c = kaoken.elementwise add %b, %v : tensor<?x5xf32>, tensor<5xf32> -> tensor<?x5xf32>
  %d = kaoken.gelu %c : tensor<?x5xf32> -> tensor<?x5xf32>
  %e = kaoken.reshape %d to <[b, s, 5]> : tensor<?x5xf32> -> tensor<?x?x5xf32>
  return %e : tensor<?x?x5xf32>
}
// CHECK-LABEL: func.func @layers
// CHECK-NEXT:    [[W:%.*]] = kaoken.weight "w"
// CHECK-NEXT:    [[T:%.*]] = kaoken.transpose [[W]] {{\[1, 0\]}}
// CHECK-NEXT:    [[B:%.*]] = kaoken.weight "b"
// CHECK-NEXT:    [[C:%.*]] = kaoken.linear %x, [[T]] bias [[B]] : tensor<5xf32> : tensor<?x?x3xf32>, tensor<5x3xf32> -> tensor<?x?x5xf32>
// CHECK-NEXT:    [[D:%.*]] = kaoken.gelu [[C]]
// CHECK-NEXT:    return [[D]]

// RUN: kaoken-opt %s --verify-diagnostics --split-input-file | filecheck %s

func.func @main(%x: tensor<2x4xf32>) {
  %0 = kaoken.relu %x : tensor<2x4xf32> -> tensor<2x5xf32>
  func.return
}
// CHECK: result is tensor<2x5xf32>, its operands give tensor<2x4xf32>

// -----

func.func @main(%x: tensor<2x4xf32>) {
  %0 = kaoken.relu %x : tensor<2x4xf32> -> tensor<2x4xi32>
  func.return
}
// CHECK: result has element type i32, its operands give f32

// -----

func.func @main() {
  %0 = kaoken.weight "w" : tensor<?x4xf32>
  func.return
}
// CHECK: a weight's sizes are all known

// -----

func.func @main(%x: tensor<2x4xf32>, %w: tensor<3x5xf32>) {
  %0 = kaoken.linear %x, %w : tensor<2x4xf32>, tensor<3x5xf32> -> tensor<2x3xf32>
  func.return
}
// CHECK: input's last size and weight's K: 4 is not 5

// -----

func.func @main(%x: tensor<2x4xf32>, %w: tensor<3x4xf32>, %b: tensor<4xf32>) {
  %0 = kaoken.linear %x, %w bias %b : tensor<4xf32> : tensor<2x4xf32>, tensor<3x4xf32> -> tensor<2x3xf32>
  func.return
}
// CHECK: bias: 4 is not 3

// -----

func.func @main(%x: tensor<2x4xf32>, %w: tensor<3x4xf32>) {
  %0 = kaoken.linear %x, %w {norm = #kaoken<norm layer_norm>} : tensor<2x4xf32>, tensor<3x4xf32> -> tensor<2x3xf32>
  func.return
}
// CHECK: a layer_norm epilogue needs eps and norm_weight

// -----

func.func @main(%x: tensor<2x4xf32>, %w: tensor<2x4x3xf32>) {
  %0 = kaoken.linear %x, %w {out_features = 7} : tensor<2x4xf32>, tensor<2x4x3xf32> -> tensor<2x7xf32>
  func.return
}
// CHECK: 7 outputs do not fill 2 panels of 3

// -----

func.func @main(%a: tensor<2x4xf32>, %b: tensor<3x4xf32>) {
  %0 = kaoken.matmul %a, %b : tensor<2x4xf32>, tensor<3x4xf32> -> tensor<2x4xf32>
  func.return
}
// CHECK: K of lhs and rhs: 4 is not 3

// -----

func.func @main(%x: tensor<1x5x8xf32>) {
  %0 = kaoken.attention %x, %x, %x {num_heads = 3, scale = 1.0} : tensor<1x5x8xf32>, tensor<1x5x8xf32>, tensor<1x5x8xf32> -> tensor<1x5x8xf32>
  func.return
}
// CHECK: query's row of 8 does not split into 3 heads

// -----

func.func @main(%x: tensor<1x5x8xf32>, %m: tensor<1x1x4x5xi1>) {
  %0 = kaoken.attention %x, %x, %x mask %m : tensor<1x1x4x5xi1> {num_heads = 2, scale = 1.0} : tensor<1x5x8xf32>, tensor<1x5x8xf32>, tensor<1x5x8xf32> -> tensor<1x5x8xf32>
  func.return
}
// CHECK: broadcast: 4 is not 5

// -----

func.func @main(%x: tensor<2x4xf32>, %w: tensor<5xf32>) {
  %0 = kaoken.rms_norm %x, %w {eps = 1.0e-5} : tensor<2x4xf32>, tensor<5xf32> -> tensor<2x4xf32>
  func.return
}
// CHECK: weight and bias: 5 is not 4

// -----

func.func @main(%t: tensor<9x8xf32>, %i: tensor<2xf32>) {
  %0 = kaoken.embedding %t, %i : tensor<9x8xf32>, tensor<2xf32> -> tensor<2x8xf32>
  func.return
}
// CHECK: indices must be integers, not f32

// -----

func.func @main(%x: tensor<2x3x4xf32>, %m: tensor<2x4xi1>) {
  %0 = kaoken.mean_pool %x, %m : tensor<2x3x4xf32>, tensor<2x4xi1> -> tensor<2x4xf32>
  func.return
}
// CHECK: mask: 4 is not 3

// -----

func.func @main(%x: tensor<2x3xf32>) {
  %0 = kaoken.reshape %x to <[7]> : tensor<2x3xf32> -> tensor<7xf32>
  func.return
}
// CHECK: number of elements: 6 is not 7

// -----

func.func @main(%x: tensor<2x3xf32>) {
  %0 = kaoken.transpose %x [0, 0] : tensor<2x3xf32> -> tensor<2x2xf32>
  func.return
}
// CHECK: [0, 0] does not permute 2 dimensions

// -----

func.func @main(%x: tensor<2x3xf32>) {
  %0 = kaoken.concat %x, %x {dim = 2} : tensor<2x3xf32>, tensor<2x3xf32> -> tensor<4x3xf32>
  func.return
}
// CHECK: dimension 2 of a tensor with 2

// -----

func.func @main(%x: tensor<2x3xf32>, %i: tensor<2xi64>) {
  %0 = kaoken.gather %x at %i along [0, 1] : tensor<2x3xf32> at tensor<2xi64> -> tensor<2xf32>
  func.return
}
// CHECK: gather needs one index tensor for each of its dims

// -----

func.func @main(%x: tensor<2x3xf32>) {
  %0 = kaoken.elementwise add %x : tensor<2x3xf32> -> tensor<2x3xf32>
  func.return
}
// CHECK: add takes 2 operands

// -----

func.func @main(%x: tensor<2x3xf32>, %y: tensor<2x3xi64>) {
  %0 = kaoken.elementwise add %x, %y : tensor<2x3xf32>, tensor<2x3xi64> -> tensor<2x3xf32>
  func.return
}
// CHECK: add of different element types

// -----

func.func @main(%x: tensor<2x3xf32>) {
  %0 = kaoken.reduce sum %x over [2] : tensor<2x3xf32> -> tensor<2xf32>
  func.return
}
// CHECK: reduce over a dimension that is not there

// -----

func.func @main(%x: tensor<1x2x4xf32>) {
  %c = kaoken.cache "c" : !kaoken.cache<[8, 1, 4], f32, columns>
  func.return
}
// CHECK: a cache's layout is one of rows, panels

// -----

func.func @main(%x: tensor<1x2x6xf32>) {
  %c = kaoken.cache "c" : !kaoken.cache<[8, 1, 4], f32, rows>
  kaoken.cache_append %x to %c at <[0]> : tensor<1x2x6xf32>, !kaoken.cache<[8, 1, 4], f32, rows>
  func.return
}
// CHECK: numbers of a row: 6 is not 4

// -----

func.func @main(%x: tensor<2x2x4xf32>) {
  %c = kaoken.cache "c" : !kaoken.cache<[8, 1, 4], f32, rows>
  kaoken.cache_append %x to %c at <[0]> : tensor<2x2x4xf32>, !kaoken.cache<[8, 1, 4], f32, rows>
  func.return
}
// CHECK: a cache holds one sequence

// -----

func.func @main() {
  %c = kaoken.cache "c" : !kaoken.cache<[8, 1, 4], f32, rows>
  %r = kaoken.cache_read %c to <[3]> : !kaoken.cache<[8, 1, 4], f32, rows> -> tensor<1x4x4xf32>
  func.return
}
// CHECK: result is tensor<1x4x4xf32>, its operands give tensor<1x3x4xf32>

// -----

func.func @main(%x: tensor<1x2x8xf32>, %t: tensor<2x3xf32>) {
  %y = kaoken.rope %x, %t, %t {num_heads = 2 : i64} : tensor<1x2x8xf32>, tensor<2x3xf32>, tensor<2x3xf32> -> tensor<1x2x8xf32>
  func.return
}
// CHECK: 3 pairs do not fit a head of 4

// -----

func.func @main(%x: tensor<1x2x8xf32>) {
  %y = kaoken.attention %x, %x, %x {num_heads = 2 : i64, scale = 1.0 : f64, window = 3 : i64} : tensor<1x2x8xf32>, tensor<1x2x8xf32>, tensor<1x2x8xf32> -> tensor<1x2x8xf32>
  func.return
}
// CHECK: a window belongs to causal attention

// -----

func.func @main(%x: vector<4xf32>) {
  %0 = kaoken_loop.compare "sle" %x, %x : vector<4xf32> -> vector<4xi1>
  func.return
}
// CHECK: unknown predicate sle for vector<4xf32>

// -----

func.func @main(%x: vector<4xf32>, %c: vector<2xi1>) {
  %0 = kaoken_loop.select %c, %x, %x : vector<2xi1>, vector<4xf32>
  func.return
}
// CHECK: vector<2xi1> chooses between vector<4xf32>

// -----

func.func @main(%i: index) {
  %0 = kaoken_loop.step %i {strides = array<i64: 1>} : vector<2x4xi32>
  func.return
}
// CHECK: 1 strides do not give vector<2x4xi32>

// -----

func.func @main(%x: tensor<4x8xf32>, %s: tensor<4xf32>) {
  %0 = kaoken.quantize %x scale %s : tensor<4xf32> {bits = 9} : tensor<4x8xf32> -> tensor<4x8xi8>
  func.return
}
// CHECK: signed codes have 2 to 8 bits

// -----

func.func @main(%x: tensor<4x8xf32>, %s: tensor<4xf32>) {
  %0 = kaoken.quantize %x scale %s : tensor<4xf32> {bits = 7, zero_point = 128} : tensor<4x8xf32> -> tensor<4x8xui8>
  func.return
}
// CHECK: only signed codes around zero have fewer than 8 bits

// -----

func.func @main(%x: tensor<4x8xf32>, %w: tensor<8x8xf32>) {
  %0 = kaoken.linear %x, %w {weight_bits = 7} : tensor<4x8xf32>, tensor<8x8xf32> -> tensor<4x8xf32>
  func.return
}
// CHECK: only signed codes around zero have fewer than 8 bits

// RUN: kaoken-opt %s -p annotate-cost | filecheck %s
// RUN: kaoken-opt %s -p annotate-cost,annotate-cost | filecheck %s
// RUN: kaoken-opt %s -p annotate-cost,lower-to-loops | filecheck %s --check-prefix=LOOPS

// A matrix product of 2 * 6 * 4 operations a row; the norm is a kernel of its own.
// CHECK: kaoken.linear
// CHECK-SAME: kaoken.cost = {flops = "48*tokens", bytes = "40*tokens + 112", precision = "fp32"}
// CHECK-SAME: kaoken.norm_cost = {flops = "28*tokens", bytes = "32*tokens + 32", precision = "fp32"}
// Half of the pairs, and the diagonal.
// CHECK: kaoken.attention
// CHECK-SAME: kaoken.cost = {flops = "8*tokens*tokens + 8*tokens"
// Rows of the table that nobody asks for are not read: 4 * (4 + 4) bytes and the index.
// CHECK: kaoken.embedding
// CHECK-SAME: kaoken.cost = {flops = "0", bytes = "40*tokens", precision = "fp32"}
// A slice reads what it gives.
// CHECK: kaoken.slice
// CHECK-SAME: bytes = "16*tokens"

// LOOPS: func.call @linear_6x4({{.*}}) {kaoken.cost = {flops = "48*tokens"
// LOOPS: func.call @layer_norm_4{{.*}} {kaoken.cost = {flops = "28*tokens"
func.func @main(%x: tensor<1x?x6xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 6]>}, %ids: tensor<?xi64> {kaoken.shape = #kaoken.shape<[tokens]>}) -> (tensor<1x?x4xf32>, tensor<?x2xf32>) attributes {kaoken.max = {tokens = 16 : i64}} {
  %w = arith.constant dense<1.0> : tensor<4x6xf32>
  %b = arith.constant dense<1.0> : tensor<4xf32>
  %t = arith.constant dense<1.0> : tensor<100x4xf32>
  %y = kaoken.linear %x, %w bias %b : tensor<4xf32> norm_weight %b : tensor<4xf32> norm_bias %b : tensor<4xf32> {norm = #kaoken<norm layer_norm>, eps = 1.0e-05 : f64} : tensor<1x?x6xf32>, tensor<4x6xf32> -> tensor<1x?x4xf32>
  %a = kaoken.attention %y, %y, %y {num_heads = 2 : i64, scale = 1.0 : f64, causal = true} : tensor<1x?x4xf32>, tensor<1x?x4xf32>, tensor<1x?x4xf32> -> tensor<1x?x4xf32>
  %e = kaoken.embedding %t, %ids : tensor<100x4xf32>, tensor<?xi64> -> tensor<?x4xf32>
  %s = kaoken.slice %e <[0, 2]> {dim = 1 : i64} : tensor<?x4xf32> -> tensor<?x2xf32>
  return %a, %s : tensor<1x?x4xf32>, tensor<?x2xf32>
}

// A cache is read and written in its own type: rows of 4 bf16 take 8 bytes; those of 2 heads in i8
// 4 bytes and a scale of 4 for each head. Parts of attention are put together by a kernel of its own.
// CHECK-LABEL: func.func @step
// CHECK: kaoken.cache_append %{{.*}} {kaoken.cost = {flops = "0", bytes = "24*tokens", precision = "fp32"}}
// CHECK: kaoken.cache_append %{{.*}} {kaoken.cost = {flops = "0", bytes = "28*tokens", precision = "fp32"}}
// CHECK: kaoken.attention
// CHECK-SAME: kaoken.cost = {flops = "{{.*}}", bytes = "20*past + 52*tokens", precision = "fp32"}
// CHECK-SAME: kaoken.combine_cost = {flops = "4*tokens", bytes = "48*tokens", precision = "fp32"}
// LOOPS: func.call @combine_parts_2x2{{.*}} {kaoken.cost = {flops = "4*tokens"
func.func @step(%x: tensor<1x?x4xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 4]>}) -> tensor<1x?x4xf32> attributes {kaoken.max = {tokens = 16 : i64, past = 16 : i64}} {
  %k = kaoken.cache "keys" : !kaoken.cache<[16, 2, 2], bf16, panels>
  %v = kaoken.cache "values" : !kaoken.cache<[16, 2, 2], i8, rows>
  kaoken.cache_append %x to %k at <[past]> : tensor<1x?x4xf32>, !kaoken.cache<[16, 2, 2], bf16, panels>
  kaoken.cache_append %x to %v at <[past]> : tensor<1x?x4xf32>, !kaoken.cache<[16, 2, 2], i8, rows>
  %0 = kaoken.cache_read %k to <["past + tokens"]> : !kaoken.cache<[16, 2, 2], bf16, panels> -> tensor<1x?x4xf32>
  %1 = kaoken.cache_read %v to <["past + tokens"]> : !kaoken.cache<[16, 2, 2], i8, rows> -> tensor<1x?x4xf32>
  %y = kaoken.attention %x, %0, %1 {num_heads = 2 : i64, scale = 1.0 : f64, causal = true} : tensor<1x?x4xf32>, tensor<1x?x4xf32>, tensor<1x?x4xf32> -> tensor<1x?x4xf32>
  return %y : tensor<1x?x4xf32>
}

// Of few bits all parts of a weight are read: codes, scales, and what these are worth.
// CHECK-LABEL: func.func @few_bits
// CHECK: kaoken.cost = {flops = "1536*rows", bytes = "136*rows + 688", precision = "fp32"}
func.func @few_bits(%x: tensor<?x3x6xi32> {kaoken.shape = #kaoken.shape<[rows, 3, 6]>}) -> tensor<?x16xf32> attributes {kaoken.max = {rows = 64}} {
  %w = kaoken.weight "codes" : tensor<1x9x16x4xi8>
  %ws = kaoken.weight "scales" : tensor<1x3x16xi8>
  %t = kaoken.weight "supers" : tensor<1x2x16xf16>
  %y = kaoken.linear %x, %w weight_scale %ws : tensor<1x3x16xi8> weight_supers %t : tensor<1x2x16xf16> {out_features = 16, format = #kaoken.format<6 bits, group 16, offset 32, super 2>} : tensor<?x3x6xi32>, tensor<1x9x16x4xi8> -> tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// RUN: kaoken-opt %s -p "batch-sequences{count=2}" | filecheck %s
// RUN: kaoken-opt %s -p "batch-sequences{count=2},batch-sequences{count=2}" | filecheck %s
// RUN: kaoken-opt %s -p "batch-sequences{count=1}" | filecheck %s --check-prefix ONE

// Each sequence has caches, attention and positions of its own. The linear layer sees the rows of
// both, and reads its weight once.

// CHECK: batch = 2 : i64
// CHECK: %x: tensor<1x?x32xf32> {kaoken.shape = #kaoken.shape<[1, "tokens_0 + tokens_1", 32]>}
// CHECK-SAME: kaoken.max = {tokens_0 = 64 : i64, tokens_1 = 64 : i64, past_0 = 64 : i64, past_1 = 64 : i64, outputs = 8 : i64}
// CHECK-NOT: kaoken.cache "keys" :
// CHECK:      kaoken.cache "keys.0" {sequence = 0 : i64}
// CHECK-NEXT: kaoken.cache "keys.1" {sequence = 1 : i64}
// CHECK:      kaoken.slice %cos <[past_0, "past_0 + tokens_0"]> {dim = 0 : i64}
// CHECK-NEXT: kaoken.slice %cos <[past_1, "past_1 + tokens_1"]> {dim = 0 : i64}
// CHECK-NEXT: %rows = kaoken.concat
// CHECK:      kaoken.rope %x, %rows, %rows
// CHECK:      kaoken.slice %q <[0, tokens_0]> {dim = 1 : i64}
// CHECK-NEXT: kaoken.slice %q <[tokens_0, "tokens_0 + tokens_1"]> {dim = 1 : i64}
// CHECK-NEXT: kaoken.cache_append {{.*}} to %keys at <[past_0]>
// CHECK-NEXT: kaoken.cache_append {{.*}} to %keys_1 at <[past_1]>
// CHECK:      kaoken.cache_read %keys to <["past_0 + tokens_0"]>
// CHECK:      kaoken.attention
// CHECK:      kaoken.cache_read %keys_1 to <["past_1 + tokens_1"]>
// CHECK:      kaoken.attention
// CHECK-NEXT: %mixed = kaoken.concat
// CHECK-NEXT: kaoken.linear %mixed, %w
// CHECK-NEXT: kaoken.slice %y <["-outputs + tokens_0 + tokens_1", "tokens_0 + tokens_1"]> {dim = 1 : i64}

// ONE: kaoken.cache "keys" :
// ONE-NOT: tokens_0
builtin.module attributes {kaoken.generation = {capacity = 64 : i64, end_tokens = []}} {
  func.func @main(%x: tensor<1x?x32xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 32]>}) -> tensor<1x?x16xf32>
      attributes {kaoken.max = {tokens = 64 : i64, past = 63 : i64, outputs = 8 : i64}} {
    %keys = kaoken.cache "keys" : !kaoken.cache<[64, 2, 16], f32, panels>
    %values = kaoken.cache "values" : !kaoken.cache<[64, 2, 16], f32, rows>
    %cos = kaoken.weight "cos" : tensor<64x8xf32>
    %w = kaoken.weight "w" : tensor<16x32xf32>
    %rows = kaoken.slice %cos <[past, "past + tokens"]> {dim = 0 : i64} : tensor<64x8xf32> -> tensor<?x8xf32>
    %q = kaoken.rope %x, %rows, %rows {num_heads = 2 : i64} : tensor<1x?x32xf32>, tensor<?x8xf32>, tensor<?x8xf32> -> tensor<1x?x32xf32>
    kaoken.cache_append %q to %keys at <[past]> : tensor<1x?x32xf32>, !kaoken.cache<[64, 2, 16], f32, panels>
    kaoken.cache_append %x to %values at <[past]> : tensor<1x?x32xf32>, !kaoken.cache<[64, 2, 16], f32, rows>
    %k = kaoken.cache_read %keys to <["past + tokens"]> : !kaoken.cache<[64, 2, 16], f32, panels> -> tensor<1x?x32xf32>
    %v = kaoken.cache_read %values to <["past + tokens"]> : !kaoken.cache<[64, 2, 16], f32, rows> -> tensor<1x?x32xf32>
    %mixed = kaoken.attention %q, %k, %v {num_heads = 2 : i64, scale = 0.25 : f64, causal = true} : tensor<1x?x32xf32>, tensor<1x?x32xf32>, tensor<1x?x32xf32> -> tensor<1x?x32xf32>
    %y = kaoken.linear %mixed, %w : tensor<1x?x32xf32>, tensor<16x32xf32> -> tensor<1x?x16xf32>
    %last = kaoken.slice %y <["tokens - outputs", tokens]> {dim = 1 : i64} : tensor<1x?x16xf32> -> tensor<1x?x16xf32>
    func.return %last : tensor<1x?x16xf32>
  }
}

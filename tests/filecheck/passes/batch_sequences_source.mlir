// RUN: kaoken-opt %s -p "batch-sequences{count=2}" | filecheck %s
// RUN: kaoken-opt %s -p "batch-sequences{count=2},batch-sequences{count=2}" | filecheck %s

// Each sequence reads the keys of its own source. The encoder writes to caches that are no
// sequence's, from where its caller copies them.

// CHECK:       func.func @encode
// CHECK:         kaoken.cache "cross_keys.2" {sequence = 2 : i64}
// CHECK-NEXT:    kaoken.cache_append %s to %keys at <[0]>
// CHECK:       func.func @main
// CHECK-SAME:    source_0 = 32 : i64, source_1 = 32 : i64
// CHECK-SAME:    kaoken.least = {{{.*}}source_0 = 0 : i64, source_1 = 0 : i64
// CHECK:         kaoken.cache "cross_keys.0" {sequence = 0 : i64}
// CHECK-NEXT:    kaoken.cache "cross_keys.1" {sequence = 1 : i64}
// CHECK:         kaoken.cache_read {{.*}} to <[source_0]>
// CHECK:         kaoken.attention
// CHECK:         kaoken.cache_read {{.*}} to <[source_1]>
// CHECK:         kaoken.attention
// CHECK-NEXT:    kaoken.concat
builtin.module attributes {kaoken.generation = {capacity = 64 : i64, end_tokens = []}} {
  func.func @encode(%s: tensor<1x?x32xf32> {kaoken.shape = #kaoken.shape<[1, source, 32]>})
      attributes {kaoken.max = {source = 32 : i64}} {
    %keys = kaoken.cache "cross_keys" : !kaoken.cache<[32, 2, 16], f32, panels>
    kaoken.cache_append %s to %keys at <[0]> : tensor<1x?x32xf32>, !kaoken.cache<[32, 2, 16], f32, panels>
    %values = kaoken.cache "cross_values" : !kaoken.cache<[32, 2, 16], f32, rows>
    kaoken.cache_append %s to %values at <[0]> : tensor<1x?x32xf32>, !kaoken.cache<[32, 2, 16], f32, rows>
    func.return
  }
  func.func @main(%x: tensor<1x?x32xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 32]>}) -> tensor<1x?x32xf32>
      attributes {kaoken.max = {tokens = 64 : i64, past = 63 : i64, outputs = 8 : i64, source = 32 : i64}} {
    %keys = kaoken.cache "cross_keys" : !kaoken.cache<[32, 2, 16], f32, panels>
    %values = kaoken.cache "cross_values" : !kaoken.cache<[32, 2, 16], f32, rows>
    %k = kaoken.cache_read %keys to <[source]> : !kaoken.cache<[32, 2, 16], f32, panels> -> tensor<1x?x32xf32>
    %v = kaoken.cache_read %values to <[source]> : !kaoken.cache<[32, 2, 16], f32, rows> -> tensor<1x?x32xf32>
    %mixed = kaoken.attention %x, %k, %v {num_heads = 2 : i64, scale = 0.25 : f64} : tensor<1x?x32xf32>, tensor<1x?x32xf32>, tensor<1x?x32xf32> -> tensor<1x?x32xf32>
    %last = kaoken.slice %mixed <["tokens - outputs", tokens]> {dim = 1 : i64} : tensor<1x?x32xf32> -> tensor<1x?x32xf32>
    func.return %last : tensor<1x?x32xf32>
  }
}

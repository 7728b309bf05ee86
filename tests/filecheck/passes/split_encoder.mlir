// RUN: kaoken-opt %s -p split-encoder | filecheck %s
// RUN: kaoken-opt %s -p split-encoder,split-encoder | filecheck %s

// What the decoder computes of the source alone is computed by the encoder, and kept in caches.

// CHECK-LABEL: func.func @encode
// CHECK-NOT:     ->
// CHECK:         %[[X:.*]] = kaoken.relu
// CHECK:         %[[K:.*]] = kaoken.linear %[[X]], %{{.*}} : tensor<1x?x8xf32>, tensor<4x8xf32>
// CHECK:         %[[KEYS:.*]] = kaoken.cache "layers.0.cross_keys" : !kaoken.cache<[16, 1, 4], f32, panels>
// CHECK:         kaoken.cache_append %[[K]] to %[[KEYS]] at <[0]>
// CHECK:         kaoken.cache "layers.0.cross_values" : !kaoken.cache<[16, 1, 4], f32, rows>
// CHECK:         kaoken.cache_append
// CHECK:         func.return
// CHECK-LABEL: func.func @main
// CHECK-NOT:     encoder_hidden_states
// CHECK-SAME:    kaoken.max = {source = 16 : i64, tokens = 12 : i64}
// CHECK-NOT:     kaoken.linear
// CHECK:         %[[R:.*]] = kaoken.cache_read %{{.*}} to <[source]> : !kaoken.cache<[16, 1, 4], f32, panels>
// CHECK:         %[[V:.*]] = kaoken.cache_read %{{.*}} to <[source]> : !kaoken.cache<[16, 1, 4], f32, rows>
// CHECK:         kaoken.attention %{{.*}}, %[[R]], %[[V]]
func.func @encode(%x: tensor<1x?x8xf32> {kaoken.shape = #kaoken.shape<[1, source, 8]>}) -> tensor<1x?x8xf32> attributes {kaoken.max = {source = 16 : i64}} {
  %h = kaoken.relu %x : tensor<1x?x8xf32> -> tensor<1x?x8xf32>
  func.return %h : tensor<1x?x8xf32>
}
func.func @main(%q: tensor<1x?x4xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 4]>}, %s: tensor<1x?x8xf32> {kaoken.shape = #kaoken.shape<[1, source, 8]>, kaoken.name = "encoder_hidden_states"}) -> tensor<1x?x4xf32> attributes {kaoken.max = {tokens = 12 : i64, source = 16 : i64}} {
  %wk = kaoken.weight "k" : tensor<4x8xf32>
  %wv = kaoken.weight "v" : tensor<4x8xf32>
  %k = kaoken.linear %s, %wk : tensor<1x?x8xf32>, tensor<4x8xf32> -> tensor<1x?x4xf32>
  %v = kaoken.linear %s, %wv : tensor<1x?x8xf32>, tensor<4x8xf32> -> tensor<1x?x4xf32>
  %y = kaoken.attention %q, %k, %v {num_heads = 1 : i64, scale = 5.000000e-01 : f64} : tensor<1x?x4xf32>, tensor<1x?x4xf32>, tensor<1x?x4xf32> -> tensor<1x?x4xf32>
  func.return %y : tensor<1x?x4xf32>
}

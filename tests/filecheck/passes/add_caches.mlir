// RUN: kaoken-opt %s -p add-caches | filecheck %s
// RUN: kaoken-opt %s -p add-caches,add-caches | filecheck %s

// Causal attention goes through caches, rows of positions follow what is past, and the last rows
// are cut out behind the last sum.

func.func @main(%ids: tensor<1x?xi64> {kaoken.shape = #kaoken.shape<[1, n]>, kaoken.name = "ids"}) -> tensor<1x?x3xf32> attributes {kaoken.max = {n = 16 : i64}} {
  %table = arith.constant dense<1.0> : tensor<3x4xf32>
  %x = kaoken.embedding %table, %ids : tensor<3x4xf32>, tensor<1x?xi64> -> tensor<1x?x4xf32>
  %positions = kaoken.iota <[n]> : tensor<?xi64>
  %column = kaoken.reshape %positions to <[n, 1]> : tensor<?xi64> -> tensor<?x1xi64>
  %angle = kaoken.cast %column : tensor<?x1xi64> -> tensor<?x1xf32>
  %cosine = kaoken.elementwise cos %angle : tensor<?x1xf32> -> tensor<?x1xf32>
  %p = kaoken.elementwise add %x, %cosine : tensor<1x?x4xf32>, tensor<?x1xf32> -> tensor<1x?x4xf32>
  %a = kaoken.attention %p, %p, %p {num_heads = 2 : i64, scale = 5.000000e-01 : f64, causal = true} : tensor<1x?x4xf32>, tensor<1x?x4xf32>, tensor<1x?x4xf32> -> tensor<1x?x4xf32>
  %y = kaoken.elementwise add %p, %a : tensor<1x?x4xf32>, tensor<1x?x4xf32> -> tensor<1x?x4xf32>
  %flat = kaoken.reshape %y to <[n, 4]> : tensor<1x?x4xf32> -> tensor<?x4xf32>
  %z = kaoken.silu %flat : tensor<?x4xf32> -> tensor<?x4xf32>
  %last = kaoken.reshape %z to <[1, n, 4]> : tensor<?x4xf32> -> tensor<1x?x4xf32>
  %logits = kaoken.linear %last, %table : tensor<1x?x4xf32>, tensor<3x4xf32> -> tensor<1x?x3xf32>
  func.return %logits : tensor<1x?x3xf32>
}

// CHECK:      kaoken.generation = {capacity = 16 : i64, end_tokens = []}
// CHECK:      func.func @main(%ids: tensor<1x?xi64> {kaoken.shape = #kaoken.shape<[1, tokens]>
// CHECK-SAME:   kaoken.max = {tokens = 16 : i64, past = 15 : i64, outputs = 8 : i64}
// CHECK-SAME:   kaoken.limits = [#kaoken.shape<["past + tokens", 16]>, #kaoken.shape<[outputs, tokens]>]
// CHECK-NEXT: %[[TABLE:\w+]] = kaoken.weight "positions.cosine" : tensor<16x1xf32>
// CHECK-NEXT: %cosine = kaoken.slice %[[TABLE]] <[past, "past + tokens"]> {dim = 0 : i64}
// CHECK-NEXT: %keys = kaoken.cache "layers.0.keys" : !kaoken.cache<[16, 2, 2], f32, panels>
// CHECK-NEXT: %values = kaoken.cache "layers.0.values" : !kaoken.cache<[16, 2, 2], f32, rows>
// CHECK:      %p = kaoken.elementwise add %x, %cosine
// CHECK-NEXT: kaoken.cache_append %p to %keys at <[past]>
// CHECK-NEXT: %[[KEYS:\w+]] = kaoken.cache_read %keys to <["past + tokens"]>
// CHECK-NEXT: kaoken.cache_append %p to %values at <[past]>
// CHECK-NEXT: %[[VALUES:\w+]] = kaoken.cache_read %values to <["past + tokens"]>
// CHECK-NEXT: %[[A:\w+]] = kaoken.attention %p, %[[KEYS]], %[[VALUES]] {num_heads = 2 : i64, scale = 5.000000e-01 : f64, causal = true}
// CHECK-NEXT: %y = kaoken.elementwise add %p, %[[A]]
// CHECK-NEXT: %[[LAST:\w+]] = kaoken.slice %y <["-outputs + tokens", tokens]> {dim = 1 : i64}
// CHECK-NEXT: %flat = kaoken.reshape %[[LAST]] to <[outputs, 4]>
// CHECK-NEXT: kaoken.silu
// CHECK-NEXT: kaoken.reshape %{{.*}} to <[1, outputs, 4]>
// CHECK-NEXT: %logits = kaoken.linear
// CHECK-NEXT: func.return %logits : tensor<1x?x3xf32>

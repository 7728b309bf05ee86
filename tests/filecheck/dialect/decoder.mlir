// RUN: kaoken-opt %s | kaoken-opt | filecheck %s
// RUN: kaoken-opt %s --print-op-generic | kaoken-opt | filecheck %s

func.func @main(%q: tensor<1x?x8xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 8]>}, %k: tensor<1x?x4xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 4]>}, %cos: tensor<?x2xf32> {kaoken.shape = #kaoken.shape<[tokens, 2]>}) -> tensor<1x?x8xf32> attributes {kaoken.max = {tokens = 8 : i64, past = 15 : i64}} {
  %keys = kaoken.cache "0.keys" : !kaoken.cache<[16, 1, 4], f32, panels>
  %values = kaoken.cache "0.values" : !kaoken.cache<[16, 1, 4], f32, rows>
  %n = kaoken.cache "1.keys" : !kaoken.cache<[16, 1, 4], i8, panels>
  kaoken.cache_append %k to %n at <[0]> : tensor<1x?x4xf32>, !kaoken.cache<[16, 1, 4], i8, panels>
  %r = kaoken.rope %q, %cos, %cos {num_heads = 2 : i64} : tensor<1x?x8xf32>, tensor<?x2xf32>, tensor<?x2xf32> -> tensor<1x?x8xf32>
  %i = kaoken.rope %k, %cos, %cos {num_heads = 1 : i64, interleaved = true} : tensor<1x?x4xf32>, tensor<?x2xf32>, tensor<?x2xf32> -> tensor<1x?x4xf32>
  kaoken.cache_append %i to %keys at <[past]> : tensor<1x?x4xf32>, !kaoken.cache<[16, 1, 4], f32, panels>
  kaoken.cache_append %k to %values at <[past]> : tensor<1x?x4xf32>, !kaoken.cache<[16, 1, 4], f32, rows>
  %0 = kaoken.cache_read %keys to <["past + tokens"]> : !kaoken.cache<[16, 1, 4], f32, panels> -> tensor<1x?x4xf32>
  %1 = kaoken.cache_read %values to <["past + tokens"]> : !kaoken.cache<[16, 1, 4], f32, rows> -> tensor<1x?x4xf32>
  %y = kaoken.attention %r, %0, %1 {num_heads = 2 : i64, num_kv_heads = 1 : i64, scale = 5.000000e-01 : f64, causal = true, window = 4 : i64} : tensor<1x?x8xf32>, tensor<1x?x4xf32>, tensor<1x?x4xf32> -> tensor<1x?x8xf32>
  func.return %y : tensor<1x?x8xf32>
}
// CHECK:      %keys = kaoken.cache "0.keys" : !kaoken.cache<[16, 1, 4], f32, panels>
// CHECK-NEXT: %values = kaoken.cache "0.values" : !kaoken.cache<[16, 1, 4], f32, rows>
// CHECK-NEXT: %n = kaoken.cache "1.keys" : !kaoken.cache<[16, 1, 4], i8, panels>
// CHECK-NEXT: kaoken.cache_append %k to %n at <[0]> : tensor<1x?x4xf32>, !kaoken.cache<[16, 1, 4], i8, panels>
// CHECK-NEXT: %r = kaoken.rope %q, %cos, %cos {num_heads = 2 : i64} : tensor<1x?x8xf32>, tensor<?x2xf32>, tensor<?x2xf32> -> tensor<1x?x8xf32>
// CHECK-NEXT: %i = kaoken.rope %k, %cos, %cos {num_heads = 1 : i64, interleaved = true} : tensor<1x?x4xf32>, tensor<?x2xf32>, tensor<?x2xf32> -> tensor<1x?x4xf32>
// CHECK-NEXT: kaoken.cache_append %i to %keys at <[past]> : tensor<1x?x4xf32>, !kaoken.cache<[16, 1, 4], f32, panels>
// CHECK-NEXT: kaoken.cache_append %k to %values at <[past]> : tensor<1x?x4xf32>, !kaoken.cache<[16, 1, 4], f32, rows>
// CHECK-NEXT: %{{.*}} = kaoken.cache_read %keys to <["past + tokens"]> : !kaoken.cache<[16, 1, 4], f32, panels> -> tensor<1x?x4xf32>
// CHECK-NEXT: %{{.*}} = kaoken.cache_read %values to <["past + tokens"]> : !kaoken.cache<[16, 1, 4], f32, rows> -> tensor<1x?x4xf32>
// CHECK-NEXT: causal = true, window = 4 : i64

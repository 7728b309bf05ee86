// RUN: kaoken-opt %s -p outline | filecheck %s

// Equal layers become one function, which takes the caches of each as it takes weights.

func.func @main(%x: tensor<1x?x4xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 4]>}) -> tensor<1x?x4xf32> attributes {kaoken.max = {tokens = 8 : i64, past = 7 : i64}} {
  %c = kaoken.cache "0.c" : !kaoken.cache<[8, 1, 4], f32, rows>
  kaoken.cache_append %x to %c at <[past]> : tensor<1x?x4xf32>, !kaoken.cache<[8, 1, 4], f32, rows>
  %0 = kaoken.cache_read %c to <["past + tokens"]> : !kaoken.cache<[8, 1, 4], f32, rows> -> tensor<1x?x4xf32>
  %1 = kaoken.attention %x, %0, %0 {num_heads = 1 : i64, scale = 1.000000e+00 : f64} : tensor<1x?x4xf32>, tensor<1x?x4xf32>, tensor<1x?x4xf32> -> tensor<1x?x4xf32>
  %2 = kaoken.silu %1 : tensor<1x?x4xf32> -> tensor<1x?x4xf32>
  %d = kaoken.cache "1.c" : !kaoken.cache<[8, 1, 4], f32, rows>
  kaoken.cache_append %2 to %d at <[past]> : tensor<1x?x4xf32>, !kaoken.cache<[8, 1, 4], f32, rows>
  %3 = kaoken.cache_read %d to <["past + tokens"]> : !kaoken.cache<[8, 1, 4], f32, rows> -> tensor<1x?x4xf32>
  %4 = kaoken.attention %2, %3, %3 {num_heads = 1 : i64, scale = 1.000000e+00 : f64} : tensor<1x?x4xf32>, tensor<1x?x4xf32>, tensor<1x?x4xf32> -> tensor<1x?x4xf32>
  %5 = kaoken.silu %4 : tensor<1x?x4xf32> -> tensor<1x?x4xf32>
  func.return %5 : tensor<1x?x4xf32>
}

// CHECK:      func.func private @[[LAYER:\w+]](%{{.*}}: tensor<1x?x4xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 4]>}, %{{.*}}: !kaoken.cache<[8, 1, 4], f32, rows>)
// CHECK-NEXT:   kaoken.cache_append
// CHECK-NEXT:   kaoken.cache_read
// CHECK:      func.func @main
// CHECK-NEXT:   %c = kaoken.cache "0.c"
// CHECK-NEXT:   %d = kaoken.cache "1.c"
// CHECK-NEXT:   func.call @{{\w+}}(%x, %c)
// CHECK-NEXT:   func.call @{{\w+}}(%{{.*}}, %d)

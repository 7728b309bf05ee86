// RUN: kaoken-opt %s -p "narrow-caches{dtype=int8}" | filecheck %s
// RUN: kaoken-opt %s -p "narrow-caches{dtype=int8},narrow-caches{dtype=bf16}" | filecheck %s
// RUN: kaoken-opt %s -p "narrow-caches{dtype=bf16}" | filecheck %s --check-prefix=BF16
// RUN: kaoken-opt %s -p "narrow-caches{dtype=f32}" | filecheck %s --check-prefix=F32
// RUN: kaoken-opt %s -p "narrow-caches{dtype=int8},choose-schedule{target=x86-64-v4},lower-to-loops" | filecheck %s --check-prefix=LOOPS
// RUN: kaoken-opt %s -p "narrow-caches{dtype=int8},choose-schedule{target=x86-64-v4},lower-to-loops,vectorize,plan-memory" | filecheck %s --check-prefix=PLAN

// The types of caches change; rows go in and out as f32. Scales lie behind the numbers.

func.func @main(%q: tensor<1x?x384xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 384]>}, %k: tensor<1x?x128xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 128]>}) -> tensor<1x?x384xf32> attributes {kaoken.max = {tokens = 100 : i64, past = 99 : i64}} {
  %keys = kaoken.cache "keys" : !kaoken.cache<[100, 2, 64], f32, panels>
  %values = kaoken.cache "values" : !kaoken.cache<[100, 2, 64], f32, rows>
  kaoken.cache_append %k to %keys at <[past]> : tensor<1x?x128xf32>, !kaoken.cache<[100, 2, 64], f32, panels>
  kaoken.cache_append %k to %values at <[past]> : tensor<1x?x128xf32>, !kaoken.cache<[100, 2, 64], f32, rows>
  %0 = kaoken.cache_read %keys to <["past + tokens"]> : !kaoken.cache<[100, 2, 64], f32, panels> -> tensor<1x?x128xf32>
  %1 = kaoken.cache_read %values to <["past + tokens"]> : !kaoken.cache<[100, 2, 64], f32, rows> -> tensor<1x?x128xf32>
  %y = kaoken.attention %q, %0, %1 {num_heads = 6 : i64, num_kv_heads = 2 : i64, scale = 1.250000e-01 : f64, causal = true} : tensor<1x?x384xf32>, tensor<1x?x128xf32>, tensor<1x?x128xf32> -> tensor<1x?x384xf32>
  func.return %y : tensor<1x?x384xf32>
}

// CHECK:      %keys = kaoken.cache "keys" : !kaoken.cache<[100, 2, 64], i8, panels>
// CHECK-NEXT: %values = kaoken.cache "values" : !kaoken.cache<[100, 2, 64], i8, rows>
// CHECK-NEXT: kaoken.cache_append %k to %keys at <[past]> : tensor<1x?x128xf32>, !kaoken.cache<[100, 2, 64], i8, panels>
// CHECK-NEXT: kaoken.cache_append
// CHECK-NEXT: kaoken.cache_read %keys to <["past + tokens"]> : !kaoken.cache<[100, 2, 64], i8, panels> -> tensor<1x?x128xf32>

// BF16: kaoken.cache "keys" : !kaoken.cache<[100, 2, 64], bf16, panels>
// F32:  kaoken.cache "keys" : !kaoken.cache<[100, 2, 64], f32, panels>

// LOOPS-LABEL: func.func private @append_panels_2x64
// LOOPS-SAME:    %cache: memref<2x2x64x64xi8>, %cache_scales: memref<2x2x64xf32>
// LOOPS:         math.absf
// LOOPS:         memref.store %{{.*}}, %cache_scales[%g,
// LOOPS:         kaoken_loop.convert %{{.*}} : f32 to i8
// LOOPS-LABEL: func.func private @cached_attention_6x64
// LOOPS:         kaoken_loop.convert %{{.*}} : i8 to f32
// LOOPS-NEXT:    math.fma
// LOOPS:         memref.load %keys_scales
// LOOPS:         memref.load %values_scales
// LOOPS-LABEL: func.func @main
// LOOPS:         %keys = kaoken_loop.state "keys" {parts = [array<i64: 0, 2, 8192, 64, 4096>, array<i64: 16384, 2, 512, 1, 4>]} : memref<17408xi8>
// LOOPS:         kaoken_loop.view %keys : memref<17408xi8> -> memref<2x2x64x64xi8>
// LOOPS:         kaoken_loop.view %keys {offset = 16384 : i64} : memref<17408xi8> -> memref<2x2x64xf32>

// PLAN: kaoken.state_bytes = 31232 : i64

// RUN: kaoken-opt %s -p "choose-schedule{target=x86-64-v4}" | filecheck %s --check-prefix=CHOOSE
// RUN: kaoken-opt %s -p "choose-schedule{target=x86-64-v4},lower-to-loops" | filecheck %s --check-prefix=LOOPS
// RUN: kaoken-opt %s -p "choose-schedule{target=x86-64-v4},lower-to-loops,vectorize" | filecheck %s --check-prefix=WIDE
// RUN: kaoken-opt %s -p "choose-schedule{target=x86-64-v4},lower-to-loops,vectorize,plan-memory" | filecheck %s --check-prefix=PLAN

// Attention reads caches in place: no kernel copies them. Caches are the first bytes of the arena.

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

// CHOOSE: kaoken.attention
// CHOOSE-SAME: schedule = #kaoken.schedule<panel(64), tile(i, 2), tile(r, 3), vectorize(i_in, r_in, j1_in), vectorize(i_in, r_in, e_in), vectorize(lane), prefetch(d, 8), prefetch(j, 8), parallel(it)>

// LOOPS-LABEL: func.func private @append_panels_2x64
// LOOPS-SAME:    %cache: memref<2x2x64x64xf32>
// LOOPS:         affine.for %m = 0 to min affine_map<(d0, d1) -> (d1, ((d0 * -1) + 100))>(%start, %tokens)
// LOOPS:           memref.store %{{.*}}, %cache[%g, %{{.*}}, %h, %{{.*}}] : memref<2x2x64x64xf32>
// LOOPS-LABEL: func.func private @append_rows_2x64
// LOOPS-SAME:    %cache: memref<2x100x64xf32>
// LOOPS-NOT:   @read_
// LOOPS-LABEL: func.func private @cached_attention_6x64
// Few tokens: tiles of 2 tokens, 2 key heads, and parts of 512 keys.
// LOOPS:         affine.for %it = 0 to affine_map<(d0) -> (((d0 ceildiv 512) * 8))>(%keys_read)
// LOOPS:           scf.for %j0 =
// LOOPS-NEXT:        affine.for %i_in = 0 to min
// LOOPS-NEXT:          affine.for %r_in = 0 to 3 {
// LOOPS-NEXT:            affine.for %j1_in = 0 to 64 {
// LOOPS:                   affine.for %d = 0 to 64
// Many tokens: all parts of a tile, and what they give together.
// LOOPS:         affine.for %it_1 = 0 to affine_map<(d0) -> (((d0 ceildiv 2) * 2))>(%queries)
// LOOPS:           scf.for %part =
// LOOPS:           scf.for %c =
// LOOPS-LABEL: func.func private @combine_parts_6x64
// LOOPS:         affine.for %it = 0 to 48 {
// LOOPS-LABEL: func.func @main
// LOOPS:         kaoken_loop.state "keys" {parts = [array<i64: 0, 2, 32768, 64, 16384>]} : memref<2x2x64x64xf32>
// LOOPS:         kaoken_loop.state "values" {parts = [array<i64: 0, 2, 25600, 1, 256>]} : memref<2x100x64xf32>
// LOOPS:         memref.alloc() : memref<4x2x1x2x3x64xf32>
// LOOPS:         func.call @cached_attention_6x64
// LOOPS-NEXT:    func.call @combine_parts_6x64

// WIDE-LABEL: func.func private @cached_attention_6x64
// WIDE:         affine.for %d = 0 to 64 iter_args(%{{.*}}) -> (vector<1x3x64xf32>)
// WIDE:         affine.for %{{d\w*}} = 0 to 64 iter_args(%{{.*}}) -> (vector<2x3x64xf32>)
// WIDE:         scf.for %{{j\w*}} = %{{.*}} iter_args(%{{.*}}) -> (vector<2x3x64xf32>)

// PLAN:       kaoken.state_bytes = 116736 : i64
// PLAN-LABEL: func.func @main
// PLAN:         %keys = kaoken_loop.view %arena : memref<?xi8> -> memref<2x2x64x64xf32>
// PLAN:         %values = kaoken_loop.view %arena {offset = 65536 : i64} : memref<?xi8> -> memref<2x100x64xf32>
// PLAN:         %frame = kaoken_loop.view %arena {offset = 116736 : i64}

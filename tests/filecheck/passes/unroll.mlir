// RUN: kaoken-opt %s -p unroll | filecheck %s
// RUN: kaoken-opt %s -p unroll,unroll | filecheck %s
// RUN: kaoken-opt %s -p unroll -t 'c{lower=false target=generic}' | filecheck %s --check-prefix=C

// The mark stays on what a widened loop becomes.
// CHECK-LABEL: func.func @rows
// CHECK:       affine.for %{{.*}} = 0 to 64 iter_args
// CHECK:         vector.fma
// CHECK:       } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction", kaoken_loop.unroll = 4 : i64}
// C:      #pragma GCC unroll 4
// C-NEXT: for (int64_t k = 0; k < 64; k++) {
func.func @rows(%x: memref<64xf32>, %w: memref<64x16xf32>, %y: memref<16xf32>) attributes {kaoken.schedule = #kaoken.schedule<vectorize(n), unroll(k, 4)>} {
  %zero = arith.constant 0.0 : f32
  affine.for %n = 0 to 16 {
    %s = affine.for %k = 0 to 64 iter_args(%acc = %zero) -> (f32) {
      %a = memref.load %x[%k] : memref<64xf32>
      %b = memref.load %w[%k, %n] : memref<64x16xf32>
      %t = math.fma %a, %b, %acc : f32
      affine.yield %t : f32
    } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
    memref.store %s, %y[%n] : memref<16xf32>
  } {kaoken_loop.name = "n", kaoken_loop.kind = "parallel"}
  return
}

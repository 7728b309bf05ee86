// A matrix product of floats and weights of bf16, where products of bf16 are not quick: words of two
// are taken apart, once for all rows of a tile.
// RUN: kaoken-opt %s --print-between-passes -p 'quantize{dtype=bf16 target=x86-64-v3},apply-schedule{target=x86-64-v3 file="linear { panel(16) tile(m, 4) order(n0, m, m_in, n1) vectorize(m_in, n1) }"},bake,lower-to-loops,vectorize,unroll' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=bf16 target=x86-64-v3},apply-schedule{target=x86-64-v3 file="linear { panel(16) tile(m, 4) order(n0, m, m_in, n1) vectorize(m_in, n1) }"},vectorize' -t 'c{lower=false target=x86-64-v3}' | filecheck %s --check-prefix=C

// CHECK-LABEL: IR after bake:
// CHECK: kaoken.weight "w.bf16.panels16" : tensor<8x32x16x2xbf16>

// CHECK-LABEL: IR after lower-to-loops:
// CHECK:      func.func private @linear_64x128_bf16_weight(%[[x:.*]]: memref<16x64xf32>, %[[w:.*]]: memref<8x32x16xi32>,
// CHECK:        affine.for %[[k:.*]] = 0 to 32 iter_args(%[[acc:.*]] = %{{.*}}) -> (f32) {
// CHECK:          %[[word:.*]] = memref.load %[[w]]
// CHECK:          %[[low:.*]] = arith.shli %[[word]], %{{.*}} : i32
// CHECK:          %[[high:.*]] = arith.andi %[[word]], %{{.*}} : i32
// CHECK:          %[[a:.*]] = arith.bitcast %[[low]] : i32 to f32
// CHECK:          %[[once:.*]] = math.fma %{{.*}}, %[[a]], %[[acc]] : f32
// CHECK:          %[[b:.*]] = arith.bitcast %[[high]] : i32 to f32
// CHECK:          %[[twice:.*]] = math.fma %{{.*}}, %[[b]], %[[once]] : f32
// CHECK-NEXT:     affine.yield %[[twice]] : f32

// CHECK-LABEL: IR after vectorize:
// CHECK:          affine.for %{{.*}} = 0 to 32 iter_args(%{{.*}} = %{{.*}}) -> (vector<4x16xf32>) {

// C-LABEL: static void linear_64x128_bf16_weight(
// C:        for (int64_t k = 0; k < 32; k++) {
// C-COUNT-1: <<
// C:          for (int i = 0; i < 4; i++) {
// C-NOT:    <<
// C:          _mm256_fmadd_ps(

func.func @main(%x: tensor<16x64xf32>) -> tensor<16x128xf32> {
  %w = arith.constant dense<0.5> : tensor<128x64xf32>
  %y = kaoken.linear %x, %w : tensor<16x64xf32>, tensor<128x64xf32> -> tensor<16x128xf32>
  return %y : tensor<16x128xf32>
}

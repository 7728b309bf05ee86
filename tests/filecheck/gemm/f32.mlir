// A matrix product in fp32, step by step.
// RUN: kaoken-opt %s --print-between-passes -p 'quantize{dtype=f32},apply-schedule{target=x86-64-v4 file="linear { panel(64) tile(m, 4) order(n0, m, m_in, n1) vectorize(m_in, n1) }"},bake,lower-to-loops,tile,reorder,vectorize,unroll' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=f32},apply-schedule{target=x86-64-v4 file="linear { panel(64) tile(m, 4) order(n0, m, m_in, n1) vectorize(m_in, n1) }"},vectorize' -t 'c{lower=false target=x86-64-v4}' | filecheck %s --check-prefix=C

// The weight in panels of 64 columns.
// CHECK-LABEL: IR after bake:
// CHECK: kaoken.weight "w.panels64" : tensor<2x64x64xf32>

// Every sum by itself, one after the other.
// CHECK-LABEL: IR after lower-to-loops:
// CHECK:      func.func private @linear_64x128(%[[x:.*]]: memref<16x64xf32>, %[[w:.*]]: memref<2x64x64xf32>,
// CHECK-NEXT:   affine.for %[[m:.*]] = 0 to 16 {
// CHECK-NEXT:     affine.for %[[n0:.*]] = 0 to 2 {
// CHECK-NEXT:       affine.for %[[n1:.*]] = 0 to 64 {
// CHECK:              affine.for %[[k:.*]] = 0 to 64 iter_args(%[[acc:.*]] = %{{.*}}) -> (f32) {
// CHECK:                %[[sum:.*]] = math.fma %{{.*}}, %{{.*}}, %[[acc]] : f32
// CHECK-NEXT:           affine.yield %[[sum]] : f32

// Tiles of 4 rows.
// CHECK-LABEL: IR after tile:
// CHECK:      func.func private @linear_64x128
// CHECK-NEXT:   affine.for %[[m:.*]] = 0 to 16 step 4 {
// CHECK-NEXT:     affine.for %[[in:.*]] = 0 to 4 {
// CHECK-NEXT:       affine.apply affine_map<(d0, d1) -> ((d0 + d1))> (%[[m]], %[[in]])
// CHECK-NEXT:       affine.for %{{.*}} = 0 to 2 {
// CHECK-NEXT:         affine.for %{{.*}} = 0 to 64 {

// The panel outside, the tile's rows and columns inside.
// CHECK-LABEL: IR after reorder:
// CHECK:      func.func private @linear_64x128
// CHECK-NEXT:   affine.for %{{.*}} = 0 to 2 {
// CHECK-NEXT:     affine.for %{{.*}} = 0 to 16 step 4 {
// CHECK-NEXT:       affine.for %{{.*}} = 0 to 4 {
// CHECK-NEXT:         affine.for %{{.*}} = 0 to 64 {
// CHECK:                affine.for %{{.*}} = 0 to 64 iter_args

// The tile is one value, which the sum carries.
// CHECK-LABEL: IR after vectorize:
// CHECK:      func.func private @linear_64x128
// CHECK-NEXT:   affine.for %{{.*}} = 0 to 2 {
// CHECK-NEXT:     affine.for %{{.*}} = 0 to 16 step 4 {
// CHECK:            affine.for %{{.*}} = 0 to 64 iter_args(%[[acc:.*]] = %{{.*}}) -> (vector<4x64xf32>) {
// CHECK:              %[[sum:.*]] = vector.fma %{{.*}}, %{{.*}}, %[[acc]] : vector<4x64xf32>
// CHECK-NEXT:         affine.yield %[[sum]] : vector<4x64xf32>
// CHECK:            vector.transfer_write %{{.*}} : vector<4x64xf32>, memref<16x2x64xf32>

// 16 registers of 16 sums.
// C-LABEL: static void linear_64x128(
// C: acc[i][j] = _mm512_fmadd_ps(x_v, w_v[j], acc[i][j]);

func.func @main(%x: tensor<16x64xf32>) -> tensor<16x128xf32> {
  %w = arith.constant dense<0.5> : tensor<128x64xf32>
  %y = kaoken.linear %x, %w : tensor<16x64xf32>, tensor<128x64xf32> -> tensor<16x128xf32>
  return %y : tensor<16x128xf32>
}

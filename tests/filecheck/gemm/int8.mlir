// A matrix product in int8, step by step: words of four; a panel begins with its sums' start.
// RUN: kaoken-opt %s --print-between-passes -p 'quantize{dtype=int8},apply-schedule{target="x86-64-v4+vnni" file="linear { panel(64) tile(m, 4) order(n0, m, m_in, n1) vectorize(m_in, n1) }"},bake,lower-to-loops,tile,reorder,vectorize,unroll' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=int8},apply-schedule{target="x86-64-v4+vnni" file="linear { panel(64) tile(m, 4) order(n0, m, m_in, n1) vectorize(m_in, n1) }"},vectorize' -t 'c{lower=false target="x86-64-v4+vnni"}' | filecheck %s --check-prefix=C

// The weight in panels of 64 columns.
// CHECK-LABEL: IR after bake:
// CHECK: kaoken.weight "w.quantize.panels64" : tensor<2x17x64x4xi8>

// Every sum by itself, one after the other.
// CHECK-LABEL: IR after lower-to-loops:
// CHECK:      func.func private @linear_64x128_int8(%[[x:.*]]: memref<16x16xi32>, %[[w:.*]]: memref<2x17x64xi32>,
// CHECK-NEXT:   affine.for %[[m:.*]] = 0 to 16 {
// CHECK-NEXT:     affine.for %[[n0:.*]] = 0 to 2 {
// CHECK-NEXT:       affine.for %[[n1:.*]] = 0 to 64 {
// CHECK:              affine.for %[[k:.*]] = 0 to 16 iter_args(%[[acc:.*]] = %{{.*}}) -> (i32) {
// CHECK:                %[[sum:.*]] = kaoken_loop.dot ui8_i8 %{{.*}}, %{{.*}}, %[[acc]] : i32, i32, i32 -> i32
// CHECK-NEXT:           affine.yield %[[sum]] : i32

// Tiles of 4 rows.
// CHECK-LABEL: IR after tile:
// CHECK:      func.func private @linear_64x128_int8
// CHECK-NEXT:   affine.for %[[m:.*]] = 0 to 16 step 4 {
// CHECK-NEXT:     affine.for %[[in:.*]] = 0 to 4 {
// CHECK-NEXT:       affine.apply affine_map<(d0, d1) -> ((d0 + d1))> (%[[m]], %[[in]])
// CHECK-NEXT:       affine.for %{{.*}} = 0 to 2 {
// CHECK-NEXT:         affine.for %{{.*}} = 0 to 64 {

// The panel outside, the tile's rows and columns inside.
// CHECK-LABEL: IR after reorder:
// CHECK:      func.func private @linear_64x128_int8
// CHECK-NEXT:   affine.for %{{.*}} = 0 to 2 {
// CHECK-NEXT:     affine.for %{{.*}} = 0 to 16 step 4 {
// CHECK-NEXT:       affine.for %{{.*}} = 0 to 4 {
// CHECK-NEXT:         affine.for %{{.*}} = 0 to 64 {
// CHECK:                affine.for %{{.*}} = 0 to 16 iter_args

// The tile is one value, which the sum carries.
// CHECK-LABEL: IR after vectorize:
// CHECK:      func.func private @linear_64x128_int8
// CHECK-NEXT:   affine.for %{{.*}} = 0 to 2 {
// CHECK-NEXT:     affine.for %{{.*}} = 0 to 16 step 4 {
// CHECK:            affine.for %{{.*}} = 0 to 16 iter_args(%[[acc:.*]] = %{{.*}}) -> (vector<4x64xi32>) {
// CHECK:              %[[sum:.*]] = kaoken_loop.dot ui8_i8 %{{.*}}, %{{.*}}, %[[acc]] : vector<4x64xi32>, vector<4x64xi32>, vector<4x64xi32>
// CHECK-NEXT:         affine.yield %[[sum]] : vector<4x64xi32>
// CHECK:            kaoken_loop.convert %{{.*}} : vector<4x64xi32> to vector<4x64xf32>
// CHECK:            vector.transfer_write %{{.*}} : vector<4x64xf32>, memref<16x2x64xf32>

// 16 registers of 16 sums.
// C-LABEL: static void linear_64x128_int8(
// C: _mm512_dpbusd_epi32(

func.func @main(%x: tensor<16x64xf32>) -> tensor<16x128xf32> {
  %w = arith.constant dense<0.5> : tensor<128x64xf32>
  %y = kaoken.linear %x, %w : tensor<16x64xf32>, tensor<128x64xf32> -> tensor<16x128xf32>
  return %y : tensor<16x128xf32>
}

// RUN: kaoken-opt %s -p 'choose-schedule{target="x86-64-v4+vnni"}' | filecheck %s --check-prefix=V4
// RUN: kaoken-opt %s -p 'choose-schedule{target="x86-64-v3"}' | filecheck %s --check-prefix=V3
// RUN: kaoken-opt %s -p 'choose-schedule{target="x86-64-v4+vnni"},lower-to-loops' | filecheck %s
// RUN: kaoken-opt %s -p 'choose-schedule{target="x86-64-v4+vnni"},vectorize' | filecheck %s --check-prefix=WIDE

// As many rows as leave room for a sum and a total each: 8 of one register, 2 of two.
// V4: tile(i, 8), vectorize(i_in, j), unroll(d, 8), vectorize(j), prefetch(u, 32), vectorize(m_in_in, n1)
// V3: tile(i, 2), vectorize(i_in, j), unroll(d, 8), vectorize(j), prefetch(u, 32), vectorize(m_in_in, n1)

// A panel is unpacked once, then whole blocks of 8 rows pass it; sums begin with the offset.
// CHECK-LABEL: func.func private @linear_64x64_q4
// CHECK:       affine.for %n0 = 0 to 4
// CHECK:         %[[codes:.*]] = memref.alloc() : memref<16x16xi32>
// CHECK:         affine.for %u = 0 to 8
// CHECK:           memref.store %{{.*}}, %[[codes]]
// CHECK:           arith.shrui
// CHECK:           memref.store %{{.*}}, %[[codes]]
// CHECK:         affine.for %i = 0 to affine_map<()[s0] -> (((s0 floordiv 8) * 8))>()[%m] step 8
// CHECK:           affine.for %i_in = 0 to 8
// CHECK:             affine.for %g = 0 to 2 iter_args
// CHECK:               %[[start:.*]] = arith.muli
// CHECK:               affine.for %d = 0 to 8 iter_args(%{{.*}} = %[[start]])
// CHECK:                 kaoken_loop.dot ui7_i8
// CHECK:           memref.store %{{.*}}, %y
// The rows that are left, straight from packed codes.
// CHECK:       affine.for %{{.*}} = 0 to affine_map<()[s0] -> ((s0 mod 8))>()[%m]
// CHECK:         affine.for %k = 0 to 4

// WIDE: affine.for %d = 0 to 8 iter_args(%{{.*}} = %{{.*}}) -> (vector<8x16xi32>)
func.func @main(%x: tensor<?x2x10xi32> {kaoken.shape = #kaoken.shape<[rows, 2, 10]>}) -> tensor<?x64xf32> attributes {kaoken.max = {rows = 64}} {
  %w = kaoken.weight "w" : tensor<4x8x16x4xi8>
  %ws = kaoken.weight "ws" : tensor<4x2x16xf16>
  %y = kaoken.linear %x, %w weight_scale %ws : tensor<4x2x16xf16> {out_features = 64, format = #kaoken.format<4 bits, group 32, offset 8>} : tensor<?x2x10xi32>, tensor<4x8x16x4xi8> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

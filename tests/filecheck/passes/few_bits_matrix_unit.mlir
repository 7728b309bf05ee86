// RUN: kaoken-opt %s -p 'choose-schedule{target="x86-64-v4+amx"}' | filecheck %s --check-prefix=CHOSEN
// RUN: kaoken-opt %s -p 'choose-schedule{target="x86-64-v4+amx"},lower-to-loops' | filecheck %s
// RUN: kaoken-opt %s -p 'choose-schedule{target="x86-64-v4+amx"},tensorize' | filecheck %s --check-prefix=UNIT

// Panels as wide as the matrix unit's tiles; rows whose sums and totals fit the first cache.
// CHOSEN: #kaoken.schedule<panel(32), tile(m, 512), tile(m_in, 4), order(m, n0, m_in, m_in_in, n1), tile(i, 32), tensorize(i_in, j, d), vectorize(j), prefetch(u, 16), vectorize(m_in_in, n1), prefetch(k, 16), unroll(k, 4), parallel(n0)>

// Whole blocks of 8 rows: each group of a panel is unpacked, and then passed by the rows of a block.
// CHECK-LABEL: func.func private @linear_64x64_q4
// CHECK:       affine.for %n0 = 0 to 2
// CHECK:         affine.for %i = 0 to affine_map<()[s0] -> (((s0 floordiv 8) * 8))>()[%m] step 32
// CHECK:           affine.for %g = 0 to 2 {
// CHECK:             affine.for %u = 0 to 4
// CHECK:               memref.store %{{.*}}, %steps
// CHECK:               arith.shrui
// CHECK:               memref.store %{{.*}}, %steps
// CHECK:             affine.for %i_in = 0 to min
// CHECK:               affine.for %d = 0 to 8 iter_args
// CHECK:                 kaoken_loop.dot i8_i8
// CHECK:               memref.store %{{.*}}, %total
// CHECK:           memref.store %{{.*}}, %y
// The rows that are left, straight from packed codes.
// CHECK:       affine.for %{{.*}} = 0 to affine_map<()[s0] -> ((s0 mod 8))>()[%m]
// CHECK:         affine.for %k = 0 to 4

// The unit multiplies signed inputs by signed steps.
// UNIT:      kaoken_loop.contract i8_i8 %{{.*}}, %steps
// UNIT-SAME: columns = 32 : i64} : memref<?x20xi32>, memref<8x32xi32>, memref<32x32xi32>
func.func @main(%x: tensor<?x2x10xi32> {kaoken.shape = #kaoken.shape<[rows, 2, 10]>}) -> tensor<?x64xf32> attributes {kaoken.max = {rows = 64}} {
  %w = kaoken.weight "w" : tensor<2x8x32x4xi8>
  %ws = kaoken.weight "ws" : tensor<2x2x32xf16>
  %y = kaoken.linear %x, %w weight_scale %ws : tensor<2x2x32xf16> {out_features = 64, format = #kaoken.format<4 bits, group 32, offset 8>} : tensor<?x2x10xi32>, tensor<2x8x32x4xi8> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// RUN: kaoken-opt %s -p tabulate | filecheck %s
// RUN: kaoken-opt %s -p tabulate,vectorize | filecheck %s --check-prefix=LOOPS

// Layers that read the same share its tables: of 4 words of codes 4 tables of 16 words each.
// CHECK:      %[[tables:.*]] = kaoken.lookup_tables %x {{.*}}bits = 1 : i64{{.*}} -> tensor<256xi32>
// CHECK-NEXT: kaoken.linear %x, {{.*}} tables %[[tables]] : tensor<256xi32>
// CHECK-NEXT: kaoken.linear %x, {{.*}} tables %[[tables]] : tensor<256xi32>

// LOOPS-LABEL: func.func private @lookup_tables_128_q1
// LOOPS:         kaoken_loop.step
// LOOPS:         vector.transfer_write %{{.*}}, %y{{.*}} : vector<16xi32>
// A single row looks up two nibbles, low and high bytes each; more rows are multiplied.
// LOOPS-LABEL: func.func private @linear_128x32_q1
// LOOPS:       affine.for %row
// LOOPS:         affine.for %k = 0 to 4
// LOOPS:           kaoken_loop.lookup low %tables[%{{.*}}], %[[word:.*]], %{{.*}} {nibble = 0 : i64} : memref<256xi32>, vector<16xi32>, vector<16xi32> -> vector<16xi32>
// LOOPS:           kaoken_loop.lookup high %tables[%{{.*}}], %[[word]], %{{.*}} {nibble = 0 : i64}
// LOOPS:           kaoken_loop.lookup low %tables[%{{.*}}], %[[word]], %{{.*}} {nibble = 1 : i64}
// LOOPS:           kaoken_loop.lookup high %tables[%{{.*}}], %[[word]], %{{.*}} {nibble = 1 : i64}
// LOOPS:         arith.shli
// LOOPS:         kaoken_loop.dot ui7_i8
func.func @main(%x: tensor<?x1x34xi32> {kaoken.shape = #kaoken.shape<[rows, 1, 34]>}) -> (tensor<?x32xf32>, tensor<?x32xf32>) attributes {kaoken.max = {rows = 64}} {
  %w = kaoken.weight "w" : tensor<2x4x16x4xi8>
  %ws = kaoken.weight "ws" : tensor<2x1x16xf16>
  %y = kaoken.linear %x, %w weight_scale %ws : tensor<2x1x16xf16> {format = #kaoken.format<1 bits, offset 1, step 2>, schedule = #kaoken.schedule<panel(16), tile(m, 8), tile(m_in, 4), order(m, n0, m_in, m_in_in, n1), lookup(k), vectorize(m_in_in, n1), vectorize(n1), parallel(n0)>} : tensor<?x1x34xi32>, tensor<2x4x16x4xi8> -> tensor<?x32xf32>
  %z = kaoken.linear %x, %w weight_scale %ws : tensor<2x1x16xf16> {format = #kaoken.format<1 bits, offset 1, step 2>, schedule = #kaoken.schedule<panel(16), tile(m, 8), tile(m_in, 4), order(m, n0, m_in, m_in_in, n1), lookup(k), vectorize(m_in_in, n1), vectorize(n1), parallel(n0)>} : tensor<?x1x34xi32>, tensor<2x4x16x4xi8> -> tensor<?x32xf32>
  return %y, %z : tensor<?x32xf32>, tensor<?x32xf32>
}

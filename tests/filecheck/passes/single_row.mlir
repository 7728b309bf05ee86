// RUN: kaoken-opt %s -p 'choose-schedule{target=x86-64-v3}' | filecheck %s
// RUN: kaoken-opt %s -p 'choose-schedule{target=x86-64-v4}' | filecheck %s --check-prefix=V4
// RUN: kaoken-opt %s -p 'choose-schedule{target=x86-64-v3},bake,lower-to-loops' | filecheck %s --check-prefix=LOOPS
// RUN: kaoken-opt %s -p 'choose-schedule{target=x86-64-v3},bake,vectorize,parallelize{threads=2}' | filecheck %s --check-prefix=VECTORS

// A single row reads two panels of three registers at once; its CPU needs no asking ahead. Registers of a whole line have
// panels side by side for every row.
// CHECK:      tile(p, 2), vectorize(p_in, n1), vectorize(n1), parallel(p), parallel(n0)>
// CHECK-NOT:  prefetch(k
// V4-NOT:     tile(p

// Seven panels: six in pairs, and one.
// LOOPS-LABEL: func.func private @linear_64x168
// LOOPS:       affine.for %row = 0 to
// LOOPS-NEXT:    affine.for %p = 0 to 6 {
// LOOPS-NEXT:      affine.for %n1 = 0 to 24 {
// LOOPS:             affine.for %k = 0 to 64
// LOOPS:       affine.for %row{{.*}} = 0 to
// LOOPS-NEXT:    affine.for %n0 = 0 to 1 {
// LOOPS:       affine.for %m{{.*}} = 0 to min
// LOOPS-NEXT:    affine.for %n0{{.*}} = 0 to 7 {

// VECTORS-LABEL: func.func private @linear_64x168
// VECTORS:       affine.for %p = %{{.*}} to {{.*}} step 2 {
// VECTORS:         vector.fma {{.*}} : vector<2x24xf32>
func.func @main(%x: tensor<?x64xf32> {kaoken.shape = #kaoken.shape<[rows, 64]>}) -> tensor<?x168xf32> attributes {kaoken.max = {rows = 64}} {
  %w = arith.constant dense<0.5> : tensor<168x64xf32>
  %y = kaoken.linear %x, %w : tensor<?x64xf32>, tensor<168x64xf32> -> tensor<?x168xf32>
  return %y : tensor<?x168xf32>
}

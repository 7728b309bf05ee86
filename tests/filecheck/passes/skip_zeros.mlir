// RUN: kaoken-opt %s -p 'observe-zeros{density=0.1},choose-schedule{target=x86-64-v4},skip-zeros' | filecheck %s
// RUN: kaoken-opt %s -p 'observe-zeros{density=0.9},choose-schedule{target=x86-64-v4},skip-zeros' | filecheck %s --check-prefix=DENSE
// RUN: kaoken-opt %s -p 'observe-zeros{density=0.1},choose-schedule{target=x86-64-v4},skip-zeros,lower-to-loops' | filecheck %s --check-prefix=LOOPS
// RUN: kaoken-opt %s -p 'observe-zeros{density=0.1},choose-schedule{target=x86-64-v4},skip-zeros,prefetch' | filecheck %s --check-prefix=AHEAD
// RUN: kaoken-opt %s -p 'skip-zeros' | filecheck %s --check-prefix=UNKNOWN

// The layer behind the ReLU gets the list of what is not zero; its panels are several lines wide.
// CHECK:      %h = kaoken.linear %x
// CHECK-NOT:  density
// CHECK:      %nonzeros = kaoken.nonzeros %h {schedule = #kaoken.schedule<parallel(m)>, block = 256 : i64}
// CHECK:      kaoken.linear %h, {{.*}} nonzeros %nonzeros : tensor<319xi32> {schedule = #kaoken.schedule<panel({{32|64}}),{{.*}} skip(k), vectorize(n1), prefetch(k_nonzero, 16), parallel(n0)>}

// DENSE-NOT:   kaoken.nonzeros
// UNKNOWN-NOT: kaoken.nonzeros

// Steps are listed without branches, block by block of the sum.
// LOOPS-LABEL: func.func private @nonzeros_300
// LOOPS:       %[[once:.*]] = arith.select
// LOOPS-NEXT:  affine.for %{{.*}} = 0 to %[[once]] {
// LOOPS:         affine.for %b = 0 to 1
// LOOPS:           affine.for %s = 0 to 256
// LOOPS:             arith.cmpf une
// LOOPS:             arith.select
// A single row goes along the list, more rows as always.
// LOOPS-LABEL: func.func private @linear_300x64
// LOOPS:       %[[single:.*]] = arith.select
// LOOPS-NEXT:  affine.for %row = 0 to %[[single]] {
// LOOPS:         affine.for %n0 = 0 to 2
// LOOPS:           affine.for %k0 = 0 to 1
// LOOPS:             scf.for %k_nonzero
// LOOPS:               memref.load %nonzeros
// LOOPS:               math.fma
// LOOPS:       %[[more:.*]] = arith.select
// LOOPS:       affine.for %{{.*}} = 0 to min affine_map<()[s0, s1] -> (s0, s1)>()[%{{.*}}, %[[more]]]

// What the list says is asked for ahead.
// AHEAD-LABEL: func.func private @linear_300x64
// AHEAD:       scf.for %k_nonzero
// AHEAD:         memref.load %nonzeros
// AHEAD:         kaoken_loop.prefetch %w
func.func @main(%x: tensor<?x8xf32> {kaoken.shape = #kaoken.shape<[rows, 8]>}) -> tensor<?x64xf32> attributes {kaoken.max = {rows = 64}} {
  %w1 = arith.constant dense<0.5> : tensor<300x8xf32>
  %h = kaoken.linear %x, %w1 {activation = #kaoken<activation relu>} : tensor<?x8xf32>, tensor<300x8xf32> -> tensor<?x300xf32>
  %w2 = arith.constant dense<0.5> : tensor<64x300xf32>
  %y = kaoken.linear %h, %w2 : tensor<?x300xf32>, tensor<64x300xf32> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

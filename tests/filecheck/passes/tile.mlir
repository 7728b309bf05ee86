// RUN: kaoken-opt %s -p tile | filecheck %s
// RUN: kaoken-opt %s -p tile,tile | filecheck %s

// An open extent: the last block is as long as what is left.
// CHECK-LABEL: func.func @open
// CHECK:      affine.for %[[m:.*]] = 0 to %[[M:.*]] step 8 {
// CHECK-NEXT:   affine.for %[[in:.*]] = 0 to min affine_map<(d0)[s0] -> (8, (s0 + (d0 * -1)))>(%[[m]])[%[[M]]] {
// CHECK-NEXT:     %[[i:.*]] = affine.apply affine_map<(d0, d1) -> ((d0 + d1))> (%[[m]], %[[in]])
// CHECK-NEXT:     memref.load %{{.*}}[%[[i]]]
// CHECK:        } {kaoken_loop.name = "m_in", kaoken_loop.kind = "parallel"}
// CHECK-NEXT: } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
func.func @open(%x: memref<?xf32>, %m: index) attributes {kaoken.schedule = #kaoken.schedule<tile(m, 8)>} {
  affine.for %i = 0 to %m {
    %v = memref.load %x[%i] : memref<?xf32>
    memref.store %v, %x[%i] : memref<?xf32>
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}

// A known extent: whole blocks, then the rest; the sum goes through both.
// CHECK-LABEL: func.func @reduction
// CHECK:      %[[sum:.*]] = affine.for %{{.*}} = 0 to 96 step 32 iter_args
// CHECK-NEXT:   affine.for %{{.*}} = 0 to 32 iter_args
// CHECK:      %[[rest:.*]] = arith.constant 96 : index
// CHECK-NEXT: %{{.*}} = affine.for %{{.*}} = 0 to 4 iter_args(%{{.*}} = %[[sum]])
func.func @reduction(%x: memref<100xf32>, %y: memref<1xf32>) attributes {kaoken.schedule = #kaoken.schedule<tile(h, 32)>} {
  %zero = arith.constant 0.0 : f32
  %c0 = arith.constant 0 : index
  %s = affine.for %h = 0 to 100 iter_args(%acc = %zero) -> (f32) {
    %v = memref.load %x[%h] : memref<100xf32>
    %t = arith.addf %acc, %v : f32
    affine.yield %t : f32
  } {kaoken_loop.name = "h", kaoken_loop.kind = "reduction"}
  memref.store %s, %y[%c0] : memref<1xf32>
  return
}

// Within one block there is no outer loop.
// CHECK-LABEL: func.func @short
// CHECK:      affine.for %{{.*}} = 0 to 5 {
// CHECK-NOT:  affine.for
// CHECK:      } {kaoken_loop.name = "m_in"
func.func @short(%x: memref<5xf32>) attributes {kaoken.schedule = #kaoken.schedule<tile(m, 8)>} {
  affine.for %i = 0 to 5 {
    %v = memref.load %x[%i] : memref<5xf32>
    memref.store %v, %x[%i] : memref<5xf32>
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}

// RUN: kaoken-opt %s -p reorder | filecheck %s
// RUN: kaoken-opt %s -p reorder,reorder | filecheck %s

// CHECK-LABEL: func.func @nest
// CHECK:      affine.for %[[n0:.*]] = 0 to 24 {
// CHECK-NEXT:   affine.for %[[m:.*]] = 0 to %{{.*}} {
// CHECK-NEXT:     affine.for %[[n1:.*]] = 0 to 48 {
// CHECK-NEXT:       memref.load %{{.*}}[%[[m]], %[[n0]], %[[n1]]]
func.func @nest(%x: memref<?x24x48xf32>, %m: index) attributes {kaoken.schedule = #kaoken.schedule<order(n0, m, n1)>} {
  affine.for %i = 0 to %m {
    affine.for %p = 0 to 24 {
      affine.for %j = 0 to 48 {
        %v = memref.load %x[%i, %p, %j] : memref<?x24x48xf32>
        memref.store %v, %x[%i, %p, %j] : memref<?x24x48xf32>
      } {kaoken_loop.name = "n1", kaoken_loop.kind = "parallel"}
    } {kaoken_loop.name = "n0", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}

// Blocks of rows: the panel loop moves between the loop over blocks and the one inside a block,
// whose bounds depend on it and follow. The index arithmetic sinks.
// CHECK-LABEL: func.func @blocks
// CHECK:      affine.for %[[m:.*]] = 0 to %[[M:.*]] step 4 {
// CHECK-NEXT:   affine.for %[[n0:.*]] = 0 to 24 {
// CHECK-NEXT:     affine.for %[[in:.*]] = 0 to min affine_map<(d0)[s0] -> (4, (s0 + (d0 * -1)))>(%[[m]])[%[[M]]] {
// CHECK-NEXT:       %[[i:.*]] = affine.apply affine_map<(d0, d1) -> ((d0 + d1))> (%[[m]], %[[in]])
// CHECK-NEXT:       memref.load %{{.*}}[%[[i]], %[[n0]]]
func.func @blocks(%x: memref<?x24xf32>, %m: index) attributes {kaoken.schedule = #kaoken.schedule<tile(m, 4), order(m, n0, m_in)>} {
  affine.for %i = 0 to %m {
    affine.for %p = 0 to 24 {
      %v = memref.load %x[%i, %p] : memref<?x24xf32>
      memref.store %v, %x[%i, %p] : memref<?x24xf32>
    } {kaoken_loop.name = "n0", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}

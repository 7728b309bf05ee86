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

// RUN: kaoken-opt %s -p 'parallelize{threads=4}' | filecheck %s
// RUN: kaoken-opt %s -p 'parallelize{threads=1}' | filecheck %s --check-prefix=ONE

// ONE-NOT: team
// CHECK: kaoken.threads = 4
// CHECK-LABEL: func.func private @kernel
// CHECK-SAME: %team: !kaoken_loop.team
// CHECK:      %[[id:.*]] = kaoken_loop.thread_id %team
// CHECK-NEXT: %[[count:.*]] = kaoken_loop.num_threads %team
// CHECK:      affine.for %{{.*}} = %{{.*}} to %{{.*}} {
// A nest that is not divided is one member's alone.
// CHECK:      scf.if
// CHECK-NEXT:   affine.for %{{.*}} = 0 to 3 {
func.func private @kernel(%x: memref<24xf32>) attributes {kaoken.schedule = #kaoken.schedule<parallel(n0)>} {
  %one = arith.constant 1.0 : f32
  affine.for %i = 0 to 24 {
    memref.store %one, %x[%i] : memref<24xf32>
  } {kaoken_loop.name = "n0", kaoken_loop.kind = "parallel"}
  affine.for %i = 0 to 3 {
    memref.store %one, %x[%i] : memref<24xf32>
  } {kaoken_loop.name = "n1", kaoken_loop.kind = "parallel"}
  return
}

// CHECK-LABEL: func.func @main
// CHECK:      func.call @kernel(%x, %team)
// CHECK-NEXT: kaoken_loop.barrier %team
func.func @main(%x: memref<24xf32>) {
  func.call @kernel(%x) : (memref<24xf32>) -> ()
  return
}

// Kernels that one member runs alone follow each other without a barrier; all wait for the last.
// CHECK-LABEL: func.func @chain
// CHECK:       func.call @alone
// CHECK-NEXT:  func.call @alone
// CHECK-NEXT:  kaoken_loop.barrier
// CHECK-NEXT:  func.call @shared
// CHECK-NEXT:  kaoken_loop.barrier
// CHECK-NEXT:  func.call @alone
// CHECK-NEXT:  kaoken_loop.barrier
// CHECK-NEXT:  func.return
func.func private @alone(%x: memref<8xf32>) attributes {kaoken.schedule = #kaoken.schedule<parallel(m)>} {
  %zero = arith.constant 0.0 : f32
  affine.for %h = 0 to 8 {
    memref.store %zero, %x[%h] : memref<8xf32>
  } {kaoken_loop.name = "h", kaoken_loop.kind = "parallel"}
  return
}
func.func private @shared(%x: memref<8xf32>) attributes {kaoken.schedule = #kaoken.schedule<parallel(m)>} {
  %zero = arith.constant 0.0 : f32
  affine.for %m = 0 to 8 {
    memref.store %zero, %x[%m] : memref<8xf32>
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}
func.func @chain(%x: memref<8xf32>) {
  func.call @alone(%x) : (memref<8xf32>) -> ()
  func.call @alone(%x) : (memref<8xf32>) -> ()
  func.call @shared(%x) : (memref<8xf32>) -> ()
  func.call @alone(%x) : (memref<8xf32>) -> ()
  return
}

// RUN: kaoken-opt %s -p plan-memory | filecheck %s
// RUN: kaoken-opt %s -p plan-memory,plan-memory | filecheck %s

// Two functions that callers may call: a state of the same name is the same memory, and the arena
// is large enough for either of them, not for both at once.

// CHECK:      kaoken.state_bytes = 448 : i64
// CHECK-SAME: kaoken.arena_bytes = 4544 : i64
// CHECK-LABEL: func.func @encode
// CHECK:         kaoken_loop.view %arena : memref<?xi8> -> memref<100xf32>
// CHECK:         kaoken_loop.view %arena {offset = 448 : i64} : memref<?xi8> -> memref<1024xf32>
// CHECK-LABEL: func.func @main
// CHECK:         kaoken_loop.view %arena {offset = 448 : i64} : memref<?xi8> -> memref<64xf32>
// CHECK:         kaoken_loop.view %arena : memref<?xi8> -> memref<100xf32>
func.func @encode(%x: memref<1xf32>) {
  %c = kaoken_loop.state "c" : memref<100xf32>
  %t = memref.alloc() : memref<1024xf32>
  %i = arith.constant 0 : index
  %a = memref.load %x[%i] : memref<1xf32>
  memref.store %a, %t[%i] : memref<1024xf32>
  memref.store %a, %c[%i] : memref<100xf32>
  func.return
}
func.func @main(%y: memref<1xf32>) {
  %t = memref.alloc() : memref<64xf32>
  %c = kaoken_loop.state "c" : memref<100xf32>
  %i = arith.constant 0 : index
  %a = memref.load %c[%i] : memref<100xf32>
  memref.store %a, %t[%i] : memref<64xf32>
  memref.store %a, %y[%i] : memref<1xf32>
  func.return
}

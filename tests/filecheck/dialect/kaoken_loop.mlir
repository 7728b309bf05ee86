// RUN: kaoken-opt %s | kaoken-opt | filecheck %s
// RUN: kaoken-opt %s --print-op-generic | kaoken-opt | filecheck %s

func.func @pointers(%arena: memref<?xi8>, %at: index, %team: !kaoken_loop.team, %timers: !kaoken_loop.timers) {
// CHECK: func.func @pointers(%arena: memref<?xi8>, %at: index, %team: !kaoken_loop.team, %timers: !kaoken_loop.timers) {
  %w = kaoken_loop.weight "a.weight" : memref<24x384x48xf32>
// CHECK-NEXT: %w = kaoken_loop.weight "a.weight" : memref<24x384x48xf32>
  %v0 = kaoken_loop.view %arena : memref<?xi8> -> memref<?x8xf32>
// CHECK-NEXT: %v0 = kaoken_loop.view %arena : memref<?xi8> -> memref<?x8xf32>
  %v1 = kaoken_loop.view %arena plus %at {offset = 4096} : memref<?xi8> -> memref<?x8xf32>
// CHECK-NEXT: %v1 = kaoken_loop.view %arena plus %at {offset = 4096 : i64} : memref<?xi8> -> memref<?x8xf32>
  %i = kaoken_loop.thread_id %team
// CHECK-NEXT: %i = kaoken_loop.thread_id %team
  %n = kaoken_loop.num_threads %team
// CHECK-NEXT: %n = kaoken_loop.num_threads %team
  kaoken_loop.barrier %team
// CHECK-NEXT: kaoken_loop.barrier %team
  kaoken_loop.lap %timers {timer = 3}
// CHECK-NEXT: kaoken_loop.lap %timers {timer = 3 : i64}
  kaoken_loop.lap %timers {timer = 3, waited}
// CHECK-NEXT: kaoken_loop.lap %timers {timer = 3 : i64, waited}
  kaoken_loop.prefetch %w[%i, %n, %i] : memref<24x384x48xf32>
// CHECK-NEXT: kaoken_loop.prefetch %w[%i, %n, %i] : memref<24x384x48xf32>
  kaoken_loop.prefetch %w[%i, %n, %i] {locality = 2} : memref<24x384x48xf32>
// CHECK-NEXT: kaoken_loop.prefetch %w[%i, %n, %i] {locality = 2 : i64} : memref<24x384x48xf32>
  func.return
}

func.func @lanes(%a: vector<4x32xf32>, %i: index) {
// CHECK-LABEL: func.func @lanes
  %m = kaoken_loop.compare "ole" %a, %a : vector<4x32xf32> -> vector<4x32xi1>
// CHECK-NEXT: %m = kaoken_loop.compare "ole" %a, %a : vector<4x32xf32> -> vector<4x32xi1>
  %s = kaoken_loop.select %m, %a, %a : vector<4x32xi1>, vector<4x32xf32>
// CHECK-NEXT: %s = kaoken_loop.select %m, %a, %a : vector<4x32xi1>, vector<4x32xf32>
  %n = kaoken_loop.step %i {strides = array<i64: 1, 0>} : vector<4x32xi32>
// CHECK-NEXT: %n = kaoken_loop.step %i {strides = array<i64: 1, 0>} : vector<4x32xi32>
  %f = kaoken_loop.convert %n : vector<4x32xi32> to vector<4x32xf32>
// CHECK-NEXT: %f = kaoken_loop.convert %n : vector<4x32xi32> to vector<4x32xf32>
  func.return
}

func.func @contraction(%x: memref<?x24xi32>, %w: memref<4x24x32xi32>, %y: memref<32x32xf32>, %i: index, %rows: index) {
  %c0 = arith.constant 0 : index
  %depth = arith.constant 24 : index
  kaoken_loop.contract bf16 %x[%i, %c0], %w[%c0, %c0, %c0] into %y[%c0, %c0] rows %rows depth %depth {columns = 32} : memref<?x24xi32>, memref<4x24x32xi32>, memref<32x32xf32>
// CHECK: kaoken_loop.contract bf16 %x[%i, %c0], %w[%c0, %c0, %c0] into %y[%c0, %c0] rows %rows depth %depth {columns = 32 : i64} : memref<?x24xi32>, memref<4x24x32xi32>, memref<32x32xf32>
  func.return
}

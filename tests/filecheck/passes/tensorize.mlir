// RUN: kaoken-opt %s -p tensorize | filecheck %s
// RUN: kaoken-opt %s -p tensorize,tensorize | filecheck %s
// RUN: kaoken-opt %s -p vectorize | filecheck %s --check-prefix=WIDE

// The sums of up to 32 rows at once; then row by row what follows them, for vectorize.
// CHECK-LABEL: func.func @product
// CHECK:      affine.for %[[m:.*]] = 0 to %[[M:.*]] step 32 {
// CHECK-NEXT:   affine.for %[[p:.*]] = 0 to 4 {
// CHECK-NEXT:     %[[c0:.*]] = arith.constant 0 : index
// CHECK:          %[[c1:.*]] = arith.constant 1 : index
// CHECK-NEXT:     %[[rows:.*]] = affine.min affine_map<(d0)[s0] -> (32, (s0 + (d0 * -1)))> (%[[m]])[%[[M]]]
// CHECK-NEXT:     %[[depth:.*]] = arith.constant 24 : index
// CHECK-NEXT:     %[[sums:.*]] = memref.alloc() : memref<32x16xi32>
// CHECK-NEXT:     kaoken_loop.contract ui8_i8 %x[%[[m]], %[[c0]]], %w[%[[p]], %[[c1]], %[[c0]]] into %[[sums]][%[[c0]], %[[c0]]] rows %[[rows]] depth %[[depth]] {kaoken_loop.name = "k", columns = 16 : i64} : memref<?x24xi32>, memref<4x25x16xi32>, memref<32x16xi32>
// CHECK-NEXT:     affine.for %[[i:.*]] = 0 to min
// CHECK-NEXT:       affine.for %[[j:.*]] = 0 to 16 {
// CHECK:              %[[start:.*]] = memref.load %w
// CHECK:              %[[sum:.*]] = memref.load %[[sums]][%[[i]], %[[j]]] : memref<32x16xi32>
// CHECK-NEXT:         arith.addi %[[sum]], %[[start]] : i32
// CHECK:              memref.store
// CHECK-NOT:    affine.for
// WIDE-LABEL: func.func @product
// WIDE:       kaoken_loop.contract
// WIDE-NEXT:  affine.for %{{.*}} = 0 to min
// WIDE:         vector.transfer_read %sums{{.*}} : memref<32x16xi32>, vector<16xi32>
// WIDE-NEXT:    arith.addi %{{.*}}, %{{.*}} : vector<16xi32>
func.func @product(%x: memref<?x24xi32>, %w: memref<4x25x16xi32>, %y: memref<?x4x16xi32>, %m: index) attributes {kaoken.schedule = #kaoken.schedule<tile(m, 32), order(m, n0, m_in, n1), tensorize(m_in, n1, k), vectorize(n1)>} {
  affine.for %i = 0 to %m {
    affine.for %p = 0 to 4 {
      affine.for %j = 0 to 16 {
        %c0 = arith.constant 0 : index
        %start = memref.load %w[%p, %c0, %j] : memref<4x25x16xi32>
        %s = affine.for %k = 0 to 24 iter_args(%acc = %start) -> (i32) {
          %next = affine.apply affine_map<(d0) -> (d0 + 1)> (%k)
          %a = memref.load %x[%i, %k] : memref<?x24xi32>
          %b = memref.load %w[%p, %next, %j] : memref<4x25x16xi32>
          %t = kaoken_loop.dot ui8_i8 %a, %b, %acc : i32, i32, i32 -> i32
          affine.yield %t : i32
        } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
        memref.store %s, %y[%i, %p, %j] : memref<?x4x16xi32>
      } {kaoken_loop.name = "n1", kaoken_loop.kind = "parallel"}
    } {kaoken_loop.name = "n0", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}

// A sum that starts at zero is taken as it is; its length may be open.
// CHECK-LABEL: func.func @open
// CHECK:      %[[depth:.*]] = affine.apply affine_map<()[s0] -> (s0)> ()[%n]
// CHECK:      kaoken_loop.contract bf16 %x{{.*}} depth %[[depth]] {kaoken_loop.name = "k", columns = 8 : i64
// CHECK-NEXT: affine.for
// CHECK-NOT:  arith.addf
func.func @open(%x: memref<4x24xi32>, %w: memref<24x8xi32>, %y: memref<4x8xf32>, %n: index) attributes {kaoken.schedule = #kaoken.schedule<tensorize(i, j, k)>} {
  affine.for %i = 0 to 4 {
    affine.for %j = 0 to 8 {
      %zero = arith.constant 0.0 : f32
      %s = affine.for %k = 0 to %n iter_args(%acc = %zero) -> (f32) {
        %a = memref.load %x[%i, %k] : memref<4x24xi32>
        %b = memref.load %w[%k, %j] : memref<24x8xi32>
        %t = kaoken_loop.dot bf16 %a, %b, %acc : i32, i32, f32 -> f32
        affine.yield %t : f32
      } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
      memref.store %s, %y[%i, %j] : memref<4x8xf32>
    } {kaoken_loop.name = "j", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "i", kaoken_loop.kind = "parallel"}
  return
}

// A factor that lies across is no matrix of words along k: the nest stays.
// CHECK-LABEL: func.func @across
// CHECK-NOT:   kaoken_loop.contract
// CHECK:       kaoken_loop.dot
func.func @across(%x: memref<24x4xi32>, %w: memref<24x8xi32>, %y: memref<4x8xf32>) attributes {kaoken.schedule = #kaoken.schedule<tensorize(i, j, k)>} {
  affine.for %i = 0 to 4 {
    affine.for %j = 0 to 8 {
      %zero = arith.constant 0.0 : f32
      %s = affine.for %k = 0 to 24 iter_args(%acc = %zero) -> (f32) {
        %a = memref.load %x[%k, %i] : memref<24x4xi32>
        %b = memref.load %w[%k, %j] : memref<24x8xi32>
        %t = kaoken_loop.dot bf16 %a, %b, %acc : i32, i32, f32 -> f32
        affine.yield %t : f32
      } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
      memref.store %s, %y[%i, %j] : memref<4x8xf32>
    } {kaoken_loop.name = "j", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "i", kaoken_loop.kind = "parallel"}
  return
}

// A sum over a span, whose bounds are known only when it is reached, begins at its first step.
// CHECK-LABEL: func.func @span
// CHECK:      %[[depth:.*]] = arith.subi %last, %first : index
// CHECK:      kaoken_loop.contract bf16 %x[%{{.*}}, %first], %w[%first, %{{.*}}] {{.*}} depth %[[depth]] {kaoken_loop.name = "k", columns = 8 : i64
func.func @span(%x: memref<4x24xi32>, %w: memref<24x8xi32>, %y: memref<4x8xf32>, %first: index, %last: index) attributes {kaoken.schedule = #kaoken.schedule<tensorize(i, j, k)>} {
  %one = arith.constant 1 : index
  affine.for %i = 0 to 4 {
    affine.for %j = 0 to 8 {
      %zero = arith.constant 0.0 : f32
      %s = scf.for %k = %first to %last step %one iter_args(%acc = %zero) -> (f32) {
        %a = memref.load %x[%i, %k] : memref<4x24xi32>
        %b = memref.load %w[%k, %j] : memref<24x8xi32>
        %t = kaoken_loop.dot bf16 %a, %b, %acc : i32, i32, f32 -> f32
        scf.yield %t : f32
      } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
      memref.store %s, %y[%i, %j] : memref<4x8xf32>
    } {kaoken_loop.name = "j", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "i", kaoken_loop.kind = "parallel"}
  return
}

// A sum in blocks gives the blocks that all rows pass together; a distance goes to the contraction.
// RUN: kaoken-opt %s -p tensorize,prefetch | filecheck %s --check-prefix=AHEAD
// AHEAD-LABEL: func.func @blocks
// AHEAD:       %[[depth:.*]] = arith.constant 96 : index
// AHEAD:       kaoken_loop.contract bf16 %x{{.*}} depth %[[depth]] {kaoken_loop.name = "k", columns = 8 : i64, block = 32 : i64, ahead = array<i64: 32, 96>}
func.func @blocks(%x: memref<4x96xi32>, %w: memref<96x8xi32>, %y: memref<4x8xf32>) attributes {kaoken.schedule = #kaoken.schedule<tile(k, 32), tensorize(i, j, k), prefetch(k, 32), prefetch(k, 96)>} {
  affine.for %i = 0 to 4 {
    affine.for %j = 0 to 8 {
      %zero = arith.constant 0.0 : f32
      %s = affine.for %k = 0 to 96 iter_args(%acc = %zero) -> (f32) {
        %a = memref.load %x[%i, %k] : memref<4x96xi32>
        %b = memref.load %w[%k, %j] : memref<96x8xi32>
        %t = kaoken_loop.dot bf16 %a, %b, %acc : i32, i32, f32 -> f32
        affine.yield %t : f32
      } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
      memref.store %s, %y[%i, %j] : memref<4x8xf32>
    } {kaoken_loop.name = "j", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "i", kaoken_loop.kind = "parallel"}
  return
}

// Blocks of which the last is shorter are no product at once.
// AHEAD-LABEL: func.func @rest
// AHEAD-NOT:   kaoken_loop.contract
func.func @rest(%x: memref<4x40xi32>, %w: memref<40x8xi32>, %y: memref<4x8xf32>) attributes {kaoken.schedule = #kaoken.schedule<tile(k, 32), tensorize(i, j, k)>} {
  affine.for %i = 0 to 4 {
    affine.for %j = 0 to 8 {
      %zero = arith.constant 0.0 : f32
      %s = affine.for %k = 0 to 40 iter_args(%acc = %zero) -> (f32) {
        %a = memref.load %x[%i, %k] : memref<4x40xi32>
        %b = memref.load %w[%k, %j] : memref<40x8xi32>
        %t = kaoken_loop.dot bf16 %a, %b, %acc : i32, i32, f32 -> f32
        affine.yield %t : f32
      } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
      memref.store %s, %y[%i, %j] : memref<4x8xf32>
    } {kaoken_loop.name = "j", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "i", kaoken_loop.kind = "parallel"}
  return
}

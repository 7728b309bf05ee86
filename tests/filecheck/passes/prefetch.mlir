// RUN: kaoken-opt %s -p prefetch | filecheck %s
// RUN: kaoken-opt %s -p prefetch,prefetch | filecheck %s
// RUN: kaoken-opt %s -p prefetch | kaoken-opt | filecheck %s
// RUN: kaoken-opt %s -p prefetch -t 'c{lower=false target=x86-64-v4}' | filecheck %s --check-prefix=C

// Each line of the panel's row four iterations later; the scalars of x share lines, and are left.
// CHECK-LABEL: func.func @rows
// CHECK:       affine.for %[[k:.*]] = 0 to 64 iter_args
// CHECK-NEXT:    %[[ahead:.*]] = affine.apply affine_map<(d0) -> ((d0 + 4))> (%[[k]])
// CHECK-NEXT:    %[[later:.*]] = affine.apply affine_map<(d0, d1) -> (((d0 * 64) + d1))> (%[[n0:.*]], %[[ahead]])
// CHECK-NEXT:    kaoken_loop.prefetch %w[%[[later]], %[[lane:.*]]] : memref<128x32xf32>
// CHECK-NEXT:    %[[second:.*]] = affine.apply affine_map<(d0) -> ((d0 + 16))> (%[[lane]])
// CHECK-NEXT:    kaoken_loop.prefetch %w[%[[later]], %[[second]]] : memref<128x32xf32>
// CHECK-NOT:     prefetch
// CHECK:         vector.fma
// C:      for (int64_t k = 0; k < 64; k++) {
// C-NEXT:   __builtin_prefetch(&w[(n0 * 64 + k + 4) * 32], 0, 3);
// C-NEXT:   __builtin_prefetch(&w[(n0 * 64 + k + 4) * 32 + 16], 0, 3);
func.func @rows(%x: memref<64xf32>, %w: memref<128x32xf32>, %y: memref<2x32xf32>) attributes {kaoken.schedule = #kaoken.schedule<vectorize(n), prefetch(k, 4)>} {
  %zero = arith.constant 0.0 : f32
  affine.for %n0 = 0 to 2 {
    affine.for %n = 0 to 32 {
      %s = affine.for %k = 0 to 64 iter_args(%acc = %zero) -> (f32) {
        %row = affine.apply affine_map<(d0, d1) -> (d0 * 64 + d1)> (%n0, %k)
        %a = memref.load %x[%k] : memref<64xf32>
        %b = memref.load %w[%row, %n] : memref<128x32xf32>
        %t = math.fma %a, %b, %acc : f32
        affine.yield %t : f32
      } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
      memref.store %s, %y[%n0, %n] : memref<2x32xf32>
    } {kaoken_loop.name = "n", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "n0", kaoken_loop.kind = "parallel"}
  return
}

// What is read is the same at each step, or lies where a number from memory says: nothing to ask for.
// CHECK-LABEL: func.func @still
// CHECK-NOT:     prefetch %
// CHECK:         return
func.func @still(%i: memref<64xindex>, %w: memref<128x32xf32>, %y: memref<32xf32>) attributes {kaoken.schedule = #kaoken.schedule<vectorize(n), prefetch(k, 4)>} {
  %zero = arith.constant 0.0 : f32
  %first = arith.constant 0 : index
  affine.for %n = 0 to 32 {
    %s = affine.for %k = 0 to 64 iter_args(%acc = %zero) -> (f32) {
      %row = memref.load %i[%k] : memref<64xindex>
      %a = memref.load %w[%row, %n] : memref<128x32xf32>
      %b = memref.load %w[%first, %n] : memref<128x32xf32>
      %t = math.fma %a, %b, %acc : f32
      affine.yield %t : f32
    } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
    memref.store %s, %y[%n] : memref<32xf32>
  } {kaoken_loop.name = "n", kaoken_loop.kind = "parallel"}
  return
}

// A tile of several panels: each is a stream of its own.
// CHECK-LABEL: func.func @panels
// CHECK:         %[[ahead:.*]] = affine.apply affine_map<(d0) -> ((d0 + 4))> (%{{.*}})
// CHECK-NEXT:    kaoken_loop.prefetch %w[%[[first:.*]], %[[ahead]], %[[lane:.*]]]
// CHECK-NEXT:    %[[second:.*]] = affine.apply affine_map<(d0) -> ((d0 + 1))> (%[[first]])
// CHECK-NEXT:    kaoken_loop.prefetch %w[%[[second]], %[[ahead]], %[[lane]]]
// CHECK-NOT:     prefetch
// CHECK:         vector.fma
func.func @panels(%x: memref<64xf32>, %w: memref<2x64x16xf32>, %y: memref<2x16xf32>) attributes {kaoken.schedule = #kaoken.schedule<vectorize(n0, n1), prefetch(k, 4)>} {
  %zero = arith.constant 0.0 : f32
  affine.for %n0 = 0 to 2 {
    affine.for %n1 = 0 to 16 {
      %s = affine.for %k = 0 to 64 iter_args(%acc = %zero) -> (f32) {
        %a = memref.load %x[%k] : memref<64xf32>
        %b = memref.load %w[%n0, %k, %n1] : memref<2x64x16xf32>
        %t = math.fma %a, %b, %acc : f32
        affine.yield %t : f32
      } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
      memref.store %s, %y[%n0, %n1] : memref<2x16xf32>
    } {kaoken_loop.name = "n1", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "n0", kaoken_loop.kind = "parallel"}
  return
}

// Sums left to a matrix unit have no loop yet: the op is told, and C asks for lines of several pages.
// CHECK-LABEL: func.func @contraction
// CHECK:         kaoken_loop.contract bf16 {{.*}} {{{.*}}columns = 32 : i64, ahead = array<i64: 64>}
// CHECK-NOT:     kaoken_loop.prefetch
func.func @contraction(%x: memref<?x64xi32>, %w: memref<64x32xi32>, %y: memref<?x32xf32>, %m: index) attributes {kaoken.schedule = #kaoken.schedule<tile(m, 32), tensorize(m_in, n, k), vectorize(n), prefetch(k, 64)>} {
  affine.for %i = 0 to %m {
    affine.for %n = 0 to 32 {
      %zero = arith.constant 0.0 : f32
      %s = affine.for %k = 0 to 64 iter_args(%acc = %zero) -> (f32) {
        %a = memref.load %x[%i, %k] : memref<?x64xi32>
        %b = memref.load %w[%k, %n] : memref<64x32xi32>
        %t = kaoken_loop.dot bf16 %a, %b, %acc : i32, i32, f32 -> f32
        affine.yield %t : f32
      } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
      memref.store %s, %y[%i, %n] : memref<?x32xf32>
    } {kaoken_loop.name = "n", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}

// What is read much later goes into the second cache.
// CHECK-LABEL: func.func @far
// CHECK:         kaoken_loop.prefetch %w[%{{.*}}, %{{.*}}] {locality = 2 : i64}
func.func @far(%x: memref<64xf32>, %w: memref<64x16xf32>, %y: memref<16xf32>) attributes {kaoken.schedule = #kaoken.schedule<vectorize(n), prefetch(k, 17)>} {
  %zero = arith.constant 0.0 : f32
  affine.for %n = 0 to 16 {
    %s = affine.for %k = 0 to 64 iter_args(%acc = %zero) -> (f32) {
      %a = memref.load %x[%k] : memref<64xf32>
      %b = memref.load %w[%k, %n] : memref<64x16xf32>
      %t = math.fma %a, %b, %acc : f32
      affine.yield %t : f32
    } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
    memref.store %s, %y[%n] : memref<16xf32>
  } {kaoken_loop.name = "n", kaoken_loop.kind = "parallel"}
  return
}


// What a loop around others reads an iteration later is asked for step by step, by whole tiles of
// rows alone: %rows of them pass the 64 x 16 numbers of the next panel once.
// CHECK-LABEL: func.func @rounds
// CHECK:       affine.for %[[n0:.*]] = 0 to 4 {
// CHECK:         affine.for %[[m:.*]] = 0 to
// CHECK:           scf.index_switch
// CHECK-NEXT:      case 1 {
// CHECK-NOT:         prefetch
// CHECK:           default {
// CHECK:             %[[first:.*]] = affine.apply affine_map<(d0) -> (((d0 floordiv 2) * 64))> (%[[m]])
// CHECK-NEXT:        %[[rows:.*]] = affine.min
// CHECK:             %[[tiles:.*]] = arith.divui %[[rows]], %{{.*}}
// CHECK:             %[[share:.*]] = arith.ceildivsi %{{.*}}, %[[tiles]]
// CHECK:             %[[stride:.*]] = arith.minsi %[[share]]
// CHECK:             affine.for %[[k:.*]] = 0 to 64 iter_args
// CHECK:               %[[at:.*]] = affine.apply affine_map<(d0, d1) -> ((d0 + d1))> (%[[first]], %[[k]])
// CHECK-NEXT:          %[[place:.*]] = arith.muli %[[at]], %[[stride]]
// CHECK-NEXT:          %[[next:.*]] = affine.apply affine_map<(d0) -> ((d0 + 1))> (%[[n0]])
// CHECK-NEXT:          kaoken_loop.prefetch %w[%[[next]], %{{.*}}, %[[place]]] {locality = 2 : i64} : memref<4x64x16xf32>
// CHECK-NOT:           prefetch %
// CHECK:               vector.transfer_read
// CHECK:       {kaoken_loop.name = "n0", kaoken_loop.kind = "parallel", kaoken_loop.prefetched}
func.func @rounds(%x: memref<?x64xf32>, %w: memref<4x64x16xf32>, %y: memref<?x4x16xf32>, %m: index) attributes {kaoken.schedule = #kaoken.schedule<tile(m, 32), tile(m_in, 2), order(m, n0, m_in, m_in_in, n1), vectorize(m_in_in, n1), prefetch(n0, 1)>} {
  %zero = arith.constant 0.0 : f32
  affine.for %i = 0 to %m {
    affine.for %n0 = 0 to 4 {
      affine.for %n1 = 0 to 16 {
        %s = affine.for %k = 0 to 64 iter_args(%acc = %zero) -> (f32) {
          %a = memref.load %x[%i, %k] : memref<?x64xf32>
          %b = memref.load %w[%n0, %k, %n1] : memref<4x64x16xf32>
          %t = math.fma %a, %b, %acc : f32
          affine.yield %t : f32
        } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
        memref.store %s, %y[%i, %n0, %n1] : memref<?x4x16xf32>
      } {kaoken_loop.name = "n1", kaoken_loop.kind = "parallel"}
    } {kaoken_loop.name = "n0", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}

// What a round asks for in the second cache, whole tiles do not ask for there again; fewer rows do.
// CHECK-LABEL: func.func @rounds_and_steps
// CHECK:           case 1 {
// CHECK:             affine.apply affine_map<(d0) -> ((d0 + 32))>
// CHECK:             prefetch %w{{.*}} {locality = 2 : i64}
// CHECK:           default {
// CHECK:             arith.muli
// CHECK:             prefetch %w{{.*}} {locality = 2 : i64}
// CHECK-NOT:         prefetch %
// CHECK:       return
func.func @rounds_and_steps(%x: memref<?x64xf32>, %w: memref<4x64x16xf32>, %y: memref<?x4x16xf32>, %m: index) attributes {kaoken.schedule = #kaoken.schedule<tile(m, 32), tile(m_in, 2), order(m, n0, m_in, m_in_in, n1), vectorize(m_in_in, n1), prefetch(k, 32), prefetch(n0, 1)>} {
  %zero = arith.constant 0.0 : f32
  affine.for %i = 0 to %m {
    affine.for %n0 = 0 to 4 {
      affine.for %n1 = 0 to 16 {
        %s = affine.for %k = 0 to 64 iter_args(%acc = %zero) -> (f32) {
          %a = memref.load %x[%i, %k] : memref<?x64xf32>
          %b = memref.load %w[%n0, %k, %n1] : memref<4x64x16xf32>
          %t = math.fma %a, %b, %acc : f32
          affine.yield %t : f32
        } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
        memref.store %s, %y[%i, %n0, %n1] : memref<?x4x16xf32>
      } {kaoken_loop.name = "n1", kaoken_loop.kind = "parallel"}
    } {kaoken_loop.name = "n0", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}

// A known number of tiles makes a known stride; a loop that reads nothing of its own is left.
// CHECK-LABEL: func.func @known_rounds
// CHECK:       affine.for %{{.*}} = 0 to 8 step 2
// CHECK:         %[[stride:.*]] = arith.constant 4 : index
// CHECK:           arith.muli %{{.*}}, %[[stride]]
// CHECK-NEXT:      affine.apply
// CHECK-NEXT:      kaoken_loop.prefetch
// CHECK-NOT:   prefetch %
// CHECK:       return
func.func @known_rounds(%x: memref<8x64xf32>, %w: memref<4x64x16xf32>, %y: memref<8x4x16xf32>) attributes {kaoken.schedule = #kaoken.schedule<tile(m, 2), order(n0, m, m_in, n1), vectorize(m_in, n1), prefetch(n0, 1), prefetch(m, 1)>} {
  %zero = arith.constant 0.0 : f32
  affine.for %i = 0 to 8 {
    affine.for %n0 = 0 to 4 {
      affine.for %n1 = 0 to 16 {
        %s = affine.for %k = 0 to 64 iter_args(%acc = %zero) -> (f32) {
          %a = memref.load %x[%i, %k] : memref<8x64xf32>
          %b = memref.load %w[%n0, %k, %n1] : memref<4x64x16xf32>
          %t = math.fma %a, %b, %acc : f32
          affine.yield %t : f32
        } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
        memref.store %s, %y[%i, %n0, %n1] : memref<8x4x16xf32>
      } {kaoken_loop.name = "n1", kaoken_loop.kind = "parallel"}
    } {kaoken_loop.name = "n0", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}

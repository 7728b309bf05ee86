// RUN: kaoken-opt %s -p vectorize | filecheck %s
// RUN: kaoken-opt %s -p vectorize,vectorize | filecheck %s

// The register tile of a matrix product: the reduction carries it whole.
// CHECK-LABEL: func.func @tile
// CHECK:      affine.for %[[k:.*]] = 0 to 16 iter_args(%[[acc:.*]] = %{{.*}}) -> (vector<4x32xf32>) {
// CHECK:        %[[x:.*]] = vector.transfer_read %{{.*}}[%{{.*}}, %[[k]]]{{.*}}permutation_map = affine_map<(d0, d1) -> (d0, 0)>{{.*}}vector<4x32xf32>
// CHECK-NEXT:   %[[w:.*]] = vector.transfer_read %{{.*}}[%[[k]], %{{.*}}]{{.*}}permutation_map = affine_map<(d0, d1) -> (0, d1)>{{.*}}vector<4x32xf32>
// CHECK-NEXT:   %[[sum:.*]] = vector.fma %[[x]], %[[w]], %[[acc]] : vector<4x32xf32>
// CHECK-NEXT:   affine.yield %[[sum]]
// CHECK:      vector.transfer_write %{{.*}} : vector<4x32xf32>, memref<4x32xf32>
func.func @tile(%x: memref<4x16xf32>, %w: memref<16x32xf32>, %y: memref<4x32xf32>) attributes {kaoken.schedule = #kaoken.schedule<vectorize(m, n)>} {
  affine.for %i = 0 to 4 {
    affine.for %j = 0 to 32 {
      %zero = arith.constant 0.0 : f32
      %s = affine.for %k = 0 to 16 iter_args(%acc = %zero) -> (f32) {
        %a = memref.load %x[%i, %k] : memref<4x16xf32>
        %b = memref.load %w[%k, %j] : memref<16x32xf32>
        %t = math.fma %a, %b, %acc : f32
        affine.yield %t : f32
      } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
      memref.store %s, %y[%i, %j] : memref<4x32xf32>
    } {kaoken_loop.name = "n", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}

// An extent of at most 3: a copy for each count.
// CHECK-LABEL: func.func @counts
// CHECK:      affine.for %[[m:.*]] = 0 to %[[M:.*]] step 3 {
// CHECK-NEXT:   %[[rows:.*]] = affine.min
// CHECK-NEXT:   scf.index_switch %[[rows]]
// CHECK-NEXT:   case 1 {
// CHECK:          vector<1x16xf32>
// CHECK:        case 2 {
// CHECK:          vector<2x16xf32>
// CHECK:        default {
// CHECK:          vector<3x16xf32>
func.func @counts(%x: memref<?x16xf32>, %m: index) attributes {kaoken.schedule = #kaoken.schedule<tile(m, 3), vectorize(m_in, n)>} {
  affine.for %i = 0 to %m {
    affine.for %j = 0 to 16 {
      %a = memref.load %x[%i, %j] : memref<?x16xf32>
      %t = arith.addf %a, %a : f32
      memref.store %t, %x[%i, %j] : memref<?x16xf32>
    } {kaoken_loop.name = "n", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}

// A reduction: partial sums in lanes, then one sum of them and the start.
// CHECK-LABEL: func.func @sum
// CHECK:      %[[zeros:.*]] = arith.constant dense<0.000000e+00> : vector<32xf32>
// CHECK-NEXT: %[[lanes:.*]] = affine.for %{{.*}} = 0 to 96 step 32 iter_args(%{{.*}} = %[[zeros]]) -> (vector<32xf32>)
// CHECK:      %[[total:.*]] = vector.reduction <add>, %[[lanes]] : vector<32xf32> into f32
// CHECK-NEXT: arith.addf %{{.*}}, %[[total]] : f32
func.func @sum(%x: memref<96xf32>, %y: memref<1xf32>) attributes {kaoken.schedule = #kaoken.schedule<tile(h, 32), vectorize(h_in)>} {
  %start = arith.constant 1.0 : f32
  %c0 = arith.constant 0 : index
  %s = affine.for %h = 0 to 96 iter_args(%acc = %start) -> (f32) {
    %v = memref.load %x[%h] : memref<96xf32>
    %t = arith.addf %acc, %v : f32
    affine.yield %t : f32
  } {kaoken_loop.name = "h", kaoken_loop.kind = "reduction"}
  memref.store %s, %y[%c0] : memref<1xf32>
  return
}

// What has no vector form stays: here neighbouring lanes would read with a stride.
// CHECK-LABEL: func.func @strided
// CHECK:      affine.for
// CHECK-NOT:  vector
func.func @strided(%x: memref<64xf32>, %y: memref<32xf32>) attributes {kaoken.schedule = #kaoken.schedule<vectorize(n)>} {
  affine.for %i = 0 to 32 {
    %j = affine.apply affine_map<(d0) -> (d0 * 2)> (%i)
    %v = memref.load %x[%j] : memref<64xf32>
    memref.store %v, %y[%i] : memref<32xf32>
  } {kaoken_loop.name = "n", kaoken_loop.kind = "parallel"}
  return
}

// Comparisons and choices: loop indices become the numbers of the lanes.
// CHECK-LABEL: func.func @causal
// CHECK:      %[[j:.*]] = kaoken_loop.step %{{.*}} {strides = array<i64: 0, 1>} : vector<4x32xi32>
// CHECK:      %[[i:.*]] = kaoken_loop.step %{{.*}} {strides = array<i64: 1, 0>} : vector<4x32xi32>
// CHECK-NEXT: %[[seen:.*]] = kaoken_loop.compare "sle" %[[j]], %[[i]] : vector<4x32xi32> -> vector<4x32xi1>
// CHECK:      kaoken_loop.select %[[seen]], %{{.*}}, %{{.*}} : vector<4x32xi1>, vector<4x32xf32>
func.func @causal(%s: memref<4x32xf32>) attributes {kaoken.schedule = #kaoken.schedule<vectorize(m, n)>} {
  affine.for %i = 0 to 4 {
    affine.for %j = 0 to 32 {
      %v = memref.load %s[%i, %j] : memref<4x32xf32>
      %hidden = arith.constant 0xFF800000 : f32
      %seen = arith.cmpi sle, %j, %i : index
      %t = arith.select %seen, %v, %hidden : f32
      memref.store %t, %s[%i, %j] : memref<4x32xf32>
    } {kaoken_loop.name = "n", kaoken_loop.kind = "parallel"}
  } {kaoken_loop.name = "m", kaoken_loop.kind = "parallel"}
  return
}

// A span that is known only at run time carries vectors as well.
// CHECK-LABEL: func.func @span
// CHECK: scf.for %{{.*}} = %first to %last step %{{.*}} iter_args(%{{.*}} = %{{.*}}) -> (vector<32xf32>) {
// CHECK: vector.reduction <maximumf>
func.func @span(%x: memref<?x32xf32>, %y: memref<1xf32>, %first: index, %last: index) attributes {kaoken.schedule = #kaoken.schedule<vectorize(n)>} {
  %start = arith.constant 0.0 : f32
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %s = scf.for %i = %first to %last step %c1 iter_args(%a = %start) -> (f32) {
    %r = affine.for %j = 0 to 32 iter_args(%b = %a) -> (f32) {
      %v = memref.load %x[%i, %j] : memref<?x32xf32>
      %t = arith.maximumf %b, %v : f32
      affine.yield %t : f32
    } {kaoken_loop.name = "n", kaoken_loop.kind = "reduction"}
    scf.yield %r : f32
  } {kaoken_loop.name = "m", kaoken_loop.kind = "reduction"}
  memref.store %s, %y[%c0] : memref<1xf32>
  return
}

// RUN: kaoken-opt %s -p lower-math | filecheck %s
// RUN: kaoken-opt %s -p lower-math,lower-math | filecheck %s
// RUN: not kaoken-opt %s -p 'lower-math{precision=quick}' 2>&1 | filecheck %s --check-prefix=WRONG
// WRONG: lower-math knows no precision `quick`: choose one of exact, quake1, quake2

// A polynomial in the rest x - n * ln(2), times 2**n, whose word holds n in its exponent.
// CHECK-LABEL: func.func @exp
// CHECK-SAME:  (%[[x:.*]]: vector<8x48xf32>)
// CHECK:      %[[low:.*]] = arith.constant dense<-8.733650e+01> : vector<8x48xf32>
// CHECK-NEXT: %[[c:.*]] = arith.maximumf %[[low]], %[[x]] : vector<8x48xf32>
// CHECK:      %[[sum:.*]] = math.fma %[[c]], %{{.*}}, %{{.*}} : vector<8x48xf32>
// CHECK:      %[[shifted:.*]] = arith.minimumf %{{.*}}, %[[sum]] : vector<8x48xf32>
// CHECK-NEXT: %[[n:.*]] = arith.subf %[[shifted]], %{{.*}} : vector<8x48xf32>
// CHECK-COUNT-8: math.fma
// CHECK-NEXT: %[[word:.*]] = arith.bitcast %[[shifted]] : vector<8x48xf32> to vector<8x48xi32>
// CHECK-NEXT: %[[places:.*]] = arith.constant dense<23> : vector<8x48xi32>
// CHECK-NEXT: %[[power:.*]] = arith.shli %[[word]], %[[places]] : vector<8x48xi32>
// CHECK-NEXT: %[[scale:.*]] = arith.bitcast %[[power]] : vector<8x48xi32> to vector<8x48xf32>
// CHECK-NEXT: %[[y:.*]] = arith.mulf %{{.*}}, %[[scale]] : vector<8x48xf32>
// CHECK-NEXT: func.return %[[y]]
func.func @exp(%x: vector<8x48xf32>) -> vector<8x48xf32> {
  %y = math.exp %x : vector<8x48xf32>
  return %y : vector<8x48xf32>
}

// Constants are written once in a block, equal ops too: two roots, one 1.0.
// CHECK-LABEL: func.func @rsqrt
// CHECK:      %[[root:.*]] = math.sqrt %{{.*}} : f32
// CHECK-NEXT: %[[one:.*]] = arith.constant 1.000000e+00 : f32
// CHECK-NEXT: arith.divf %[[one]], %[[root]] : f32
// CHECK-NEXT: %[[other:.*]] = math.sqrt
// CHECK-NEXT: arith.divf %[[one]], %[[other]] : f32
// CHECK-NEXT: func.return
func.func @rsqrt(%a: f32, %b: f32) -> (f32, f32, f32) {
  %x = math.rsqrt %a : f32
  %y = math.rsqrt %b : f32
  %z = math.rsqrt %a : f32
  return %x, %y, %z : f32, f32, f32
}

// sin and cos of one number share the reduction and both polynomials.
// CHECK-LABEL: func.func @both
// CHECK-COUNT-13: math.fma
// CHECK-NOT: math.fma
// CHECK: func.return
func.func @both(%x: vector<16xf32>) -> (vector<16xf32>, vector<16xf32>) {
  %s = math.sin %x : vector<16xf32>
  %c = math.cos %x : vector<16xf32>
  return %s, %c : vector<16xf32>, vector<16xf32>
}

// A constant exponent needs no logarithm.
// CHECK-LABEL: func.func @cube
// CHECK:      %[[square:.*]] = arith.mulf %[[x:.*]], %[[x]] : vector<4xf32>
// CHECK-NEXT: %[[cube:.*]] = arith.mulf %[[square]], %[[x]] : vector<4xf32>
// CHECK-NEXT: func.return %[[cube]]
func.func @cube(%x: vector<4xf32>) -> vector<4xf32> {
  %three = arith.constant dense<3.0> : vector<4xf32>
  %y = math.powf %x, %three : vector<4xf32>
  return %y : vector<4xf32>
}

// Inside loops; other types and functions that C has stay.
// CHECK-LABEL: func.func @left_alone
// CHECK:      affine.for
// CHECK-NOT:  math.tanh
// CHECK:      arith.divf
// CHECK:      math.exp %{{.*}} : f64
// CHECK-NEXT: math.floor
func.func @left_alone(%x: memref<?xf32>, %d: f64, %n: index) -> f64 {
  affine.for %i = 0 to %n {
    %v = memref.load %x[%i] : memref<?xf32>
    %t = math.tanh %v : f32
    memref.store %t, %x[%i] : memref<?xf32>
  }
  %e = math.exp %d : f64
  %f = math.floor %e : f64
  return %f : f64
}

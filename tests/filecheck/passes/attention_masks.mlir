// RUN: kaoken-opt %s -p lower-to-loops --split-input-file | filecheck %s
// RUN: kaoken-opt %s -p lower-to-loops,vectorize --split-input-file | filecheck %s --check-prefix=LANES

// A mask of keys and causality: a row of addends and the range of keys that it shows once a head;
// then each block of queries ends before the first key that lies ahead of its last query.
// CHECK-LABEL: func.func private @attention_2x8
// CHECK:      memref.store %{{.*}}, %addend[%{{.*}}, %{{.*}}] : memref<1x24xf32>
// CHECK:      %[[found:.*]], %[[after:.*]] = affine.for %row = 0 to 1 iter_args
// CHECK:        arith.minimumf
// CHECK-NEXT:   arith.maximumf
// CHECK:      %[[some:.*]] = arith.cmpf ogt, %[[after]]
// CHECK:      %[[first:.*]] = arith.select %[[some]], %{{.*}}, %{{.*}} : index
// CHECK-NEXT: %[[last:.*]] = arith.select %[[some]], %{{.*}}, %{{.*}} : index
// CHECK:      scf.for %{{.*}} = %[[first]] to %[[last]] step
// CHECK:        memref.store %{{.*}}, %vp[
// CHECK:      scf.for
// CHECK:        memref.store %{{.*}}, %kt[
// CHECK:      affine.for %i = 0 to 9 step 4 {
// CHECK:        %[[ahead:.*]] = affine.apply affine_map<(d0) -> ((d0 + 4))> (%i)
// CHECK-NEXT:   %[[end:.*]] = arith.minsi %[[ahead]], %[[last]]
// CHECK:        scf.for %[[j0:.*]] = %[[begin:.*]] to %[[panels:.*]] step
// CHECK:          memref.store %{{.*}}, %s[
// CHECK:        arith.cmpi slt
// CHECK:        scf.for %{{.*}} = %[[begin]] to %[[panels]] step %{{.*}} iter_args
// CHECK:          arith.maximumf
// CHECK:        scf.for %{{.*}} = %[[begin]] to %[[panels]] step %{{.*}} iter_args
// CHECK:          math.exp
// CHECK:        scf.for %{{.*}} = %[[first]] to %[[end]] step %{{.*}} iter_args
// CHECK:          math.fma

// LANES-LABEL: func.func private @attention_2x8
// LANES:      vector.transfer_read %mask{{.*}} : memref<2x1x1x9xi1>, vector<8xi1>
// LANES:      kaoken_loop.select %{{.*}} : vector<8xi1>, vector<8xf32>
// LANES:      kaoken_loop.step %{{.*}} {strides = array<i64: 1>} : vector<8xi32>
// LANES:      kaoken_loop.compare "oge"
// LANES:      affine.for %i = 0 to 9 step 4
// LANES:      kaoken_loop.compare "slt" %{{.*}} : vector<8xi32> -> vector<8xi1>
// LANES:      kaoken_loop.select %{{.*}} : vector<8xi1>, vector<8xf32>
func.func @main(%q: tensor<2x9x16xf32>, %k: tensor<2x9x16xf32>, %m: tensor<2x1x1x9xi1>) -> tensor<2x9x16xf32> {
  %y = kaoken.attention %q, %k, %k mask %m : tensor<2x1x1x9xi1> {num_heads = 2, scale = 1.0 : f64, causal = true, schedule = #kaoken.schedule<panel(8), tile(i, 4), vectorize(j1), vectorize(lane)>} : tensor<2x9x16xf32>, tensor<2x9x16xf32>, tensor<2x9x16xf32> -> tensor<2x9x16xf32>
  return %y : tensor<2x9x16xf32>
}

// -----

// A mask of its own for each query: addends of a block's rows, and their range where they are bools.
// CHECK-LABEL: func.func private @attention_2x8
// CHECK:      affine.for %i = 0 to 9 step 4 {
// CHECK:        affine.for %row = 0 to min
// CHECK:          memref.store %{{.*}}, %addend[%row, %{{.*}}] : memref<4x24xf32>
// CHECK:        affine.for %{{.*}} = 0 to min {{.*}} iter_args
// CHECK:        scf.for
// LANES-LABEL: func.func private @attention_2x8
// LANES:      vector.transfer_read %mask{{.*}}, vector<8xi1>
func.func @main(%q: tensor<2x9x16xf32>, %k: tensor<2x9x16xf32>, %m: tensor<9x9xi1>) -> tensor<2x9x16xf32> {
  %y = kaoken.attention %q, %k, %k mask %m : tensor<9x9xi1> {num_heads = 2, scale = 1.0 : f64, schedule = #kaoken.schedule<panel(8), tile(i, 4), vectorize(j1), vectorize(lane)>} : tensor<2x9x16xf32>, tensor<2x9x16xf32>, tensor<2x9x16xf32> -> tensor<2x9x16xf32>
  return %y : tensor<2x9x16xf32>
}

// -----

// Numbers that are added hide nothing for certain: all keys are passed over, as without a mask.
// CHECK-LABEL: func.func private @attention_2x8
// CHECK-NOT:  scf.for
// CHECK:      memref.load %mask[
// CHECK-NOT:  scf.for
// CHECK:      func.func @main
func.func @main(%q: tensor<2x8x16xf32>, %k: tensor<2x8x16xf32>, %m: tensor<2x8x8xf32>) -> tensor<2x8x16xf32> {
  %y = kaoken.attention %q, %k, %k mask %m : tensor<2x8x8xf32> {num_heads = 2, scale = 1.0 : f64, schedule = #kaoken.schedule<panel(8), tile(i, 4), vectorize(j1), vectorize(lane)>} : tensor<2x8x16xf32>, tensor<2x8x16xf32>, tensor<2x8x16xf32> -> tensor<2x8x16xf32>
  return %y : tensor<2x8x16xf32>
}

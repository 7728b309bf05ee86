// RUN: kaoken-opt %s -p "bake{mode=literal}" | filecheck %s
// RUN: kaoken-opt %s -p "bake{mode=literal},lower-to-loops" | filecheck %s --check-prefix=LOOPS
// RUN: not kaoken-opt %s -p "bake{mode=literal literal-limit=9}" 2>&1 | filecheck %s --check-prefix=LIMIT

// LIMIT: error: the layer "w" has 10 weights, but literal baking takes at most 9: raise the limit with bake{mode=literal literal-limit=10}

func.func @main(%x: tensor<1x4xf32>) -> tensor<1x2xf32> {
  %w = arith.constant dense<[[0.25, 0.0, 1.0, 0.0], [0.0, 0.0, -1.0, 0.0]]> : tensor<2x4xf32>
  %b = arith.constant dense<[0.0, 2.0]> : tensor<2xf32>
  %h = kaoken.linear %x, %w bias %b : tensor<2xf32> {activation = #kaoken<activation relu>} : tensor<1x4xf32>, tensor<2x4xf32> -> tensor<1x2xf32>
  return %h : tensor<1x2xf32>
}
// CHECK:      %w = arith.constant dense<{{\[\[}}2.500000e-01, 0.000000e+00, 1.000000e+00, 0.000000e+00], [0.000000e+00, 0.000000e+00, -1.000000e+00, 0.000000e+00]]> : tensor<2x4xf32>
// CHECK-NEXT: %b = arith.constant dense<[0.000000e+00, 2.000000e+00]> : tensor<2xf32>
// CHECK-NEXT: kaoken.linear %x, %w bias %b : tensor<2xf32> {activation = #kaoken<activation relu>, schedule = #kaoken.schedule<literal()>}

// LOOPS-LABEL: func.func private @literal_4x2_relu(%x: memref<1x4xf32>, %y: memref<1x2xf32>)
// LOOPS-NOT:     affine.for
// LOOPS:         [[X0:%.*]] = memref.load %x
// LOOPS:         [[X2:%.*]] = memref.load %x
// LOOPS-NOT:     memref.load
// LOOPS:         [[P:%.*]] = arith.mulf [[X0]]
// LOOPS-NEXT:    [[S:%.*]] = arith.addf [[P]], [[X2]]
// LOOPS:         [[R:%.*]] = arith.maximumf [[S]]
// LOOPS-NEXT:    memref.store [[R]], %y
// LOOPS-NOT:     arith.mulf
// LOOPS:         [[T:%.*]] = arith.subf {{.*}}, [[X2]]
// LOOPS-NEXT:    [[U:%.*]] = arith.maximumf [[T]]
// LOOPS:         memref.store [[U]], %y
// LOOPS-NEXT:    return

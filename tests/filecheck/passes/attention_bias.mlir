// RUN: kaoken-opt %s -p lower-to-loops | filecheck %s

// A causal bias has no columns for keys ahead of a query: each row ends at its own key, whichever
// other keys its block sees.
// CHECK-LABEL: func.func private @attention_2x8
// CHECK:       affine.for %row = 0 to
// CHECK:         %[[last:.*]] = arith.minsi
// CHECK-NEXT:    %[[seen:.*]] = arith.maxsi %[[last]]
// CHECK:         %[[whole:.*]] = arith.floordivsi %[[seen]]
// CHECK-NEXT:    scf.for %{{.*}} to %[[whole]] step
// CHECK:           memref.load %bias[%{{.*}}, %{{.*}}] : memref<2x17xf32>
// CHECK-NEXT:      arith.addf
// CHECK:         %[[rest:.*]] = arith.remsi %[[seen]]
// CHECK-NEXT:    scf.for %{{.*}} to %[[rest]] step
// CHECK:           memref.load %bias[%{{.*}}, %{{.*}}] : memref<2x17xf32>
func.func @main(%q: tensor<1x?x16xf32> {kaoken.name = "q", kaoken.shape = #kaoken.shape<[1, tokens, 16]>}) -> (tensor<1x?x16xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 16]>}) attributes {kaoken.max = {tokens = 17 : i64}} {
  %b = arith.constant dense<1.5> : tensor<2x17xf32>
  %a = kaoken.attention %q, %q, %q position_bias %b : tensor<2x17xf32> {num_heads = 2 : i64, scale = 0.35 : f32, causal = true, bias_origin = 16 : i64} : tensor<1x?x16xf32>, tensor<1x?x16xf32>, tensor<1x?x16xf32> -> tensor<1x?x16xf32>
  func.return %a : tensor<1x?x16xf32>
}

// RUN: kaoken-opt %s -p softmax-base-two | filecheck %s
// RUN: kaoken-opt %s -p softmax-base-two,softmax-base-two | filecheck %s
// RUN: kaoken-opt %s -p softmax-base-two,lower-to-loops | filecheck %s --check-prefix=LOOPS

// The scale takes log2(e), and what distances add is multiplied by it.
// CHECK-LABEL: func.func @main
// CHECK:       %[[factor:.*]] = kaoken.full 1.44269502
// CHECK-NEXT:  %[[bias:.*]] = kaoken.elementwise mul %b, %[[factor]] : tensor<2x17xf32>
// CHECK-NEXT:  kaoken.attention %q, %q, %q position_bias %[[bias]] : {{.*}} scale = 0.72134752{{.*}}, causal = true, bias_origin = 16 : i64, base_two}
// LOOPS:       math.exp2
// LOOPS-NOT:   math.exp %
// LOOPS:       func.func
func.func @main(%q: tensor<1x17x16xf32>) -> tensor<1x17x16xf32> {
  %b = arith.constant dense<1.5> : tensor<2x17xf32>
  %a = kaoken.attention %q, %q, %q position_bias %b : tensor<2x17xf32> {num_heads = 2 : i64, scale = 0.5 : f64, causal = true, bias_origin = 16 : i64} : tensor<1x17x16xf32>, tensor<1x17x16xf32>, tensor<1x17x16xf32> -> tensor<1x17x16xf32>
  func.return %a : tensor<1x17x16xf32>
}

// A mask of bools says nothing of the base. Masks of floats, caps and factors of bf16 stay with e.
// CHECK-LABEL: func.func @kinds
// CHECK:       kaoken.attention {{.*}} base_two}
// CHECK-NEXT:  kaoken.attention {{.*}} scale = 5.000000e-01 : f64}
// CHECK-NEXT:  kaoken.attention {{.*}} scale = 5.000000e-01 : f64, softcap = 2.000000e+00 : f64}
// CHECK-NEXT:  kaoken.attention {{.*}} scale = 5.000000e-01 : f64, bf16_products}
func.func @kinds(%q: tensor<1x17x16xf32>, %seen: tensor<1x1x1x17xi1>, %m: tensor<1x1x17x17xf32>) -> tensor<1x17x16xf32> {
  %a = kaoken.attention %q, %q, %q mask %seen : tensor<1x1x1x17xi1> {num_heads = 2 : i64, scale = 0.5 : f64} : tensor<1x17x16xf32>, tensor<1x17x16xf32>, tensor<1x17x16xf32> -> tensor<1x17x16xf32>
  %b = kaoken.attention %a, %q, %q mask %m : tensor<1x1x17x17xf32> {num_heads = 2 : i64, scale = 0.5 : f64} : tensor<1x17x16xf32>, tensor<1x17x16xf32>, tensor<1x17x16xf32> -> tensor<1x17x16xf32>
  %c = kaoken.attention %b, %q, %q {num_heads = 2 : i64, scale = 0.5 : f64, softcap = 2.0 : f64} : tensor<1x17x16xf32>, tensor<1x17x16xf32>, tensor<1x17x16xf32> -> tensor<1x17x16xf32>
  %d = kaoken.attention %c, %q, %q {num_heads = 2 : i64, scale = 0.5 : f64, bf16_products} : tensor<1x17x16xf32>, tensor<1x17x16xf32>, tensor<1x17x16xf32> -> tensor<1x17x16xf32>
  func.return %d : tensor<1x17x16xf32>
}

// RUN: kaoken-opt %s -p lower-to-loops | filecheck %s

// softcap c: c * tanh(score / c), before the mask's addend; scale and 1 / c are one factor.
// CHECK-LABEL: func.func private @attention_2x8
// CHECK:       %[[factor:.*]] = arith.constant 2.500000e-01 : f32
// CHECK-NEXT:  %[[small:.*]] = arith.mulf %{{.*}}, %[[factor]]
// CHECK-NEXT:  %[[tanh:.*]] = math.tanh %[[small]]
// CHECK-NEXT:  %[[cap:.*]] = arith.constant 2.000000e+00 : f32
// CHECK-NEXT:  %[[score:.*]] = arith.mulf %[[tanh]], %[[cap]]
// CHECK:       arith.addf %[[score]]
func.func @main(%q: tensor<1x17x16xf32>, %m: tensor<1x1x17x17xf32>) -> tensor<1x17x16xf32> {
  %a = kaoken.attention %q, %q, %q mask %m : tensor<1x1x17x17xf32> {num_heads = 2 : i64, scale = 0.5 : f64, softcap = 2.0 : f64} : tensor<1x17x16xf32>, tensor<1x17x16xf32>, tensor<1x17x16xf32> -> tensor<1x17x16xf32>
  func.return %a : tensor<1x17x16xf32>
}

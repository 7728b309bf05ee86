// RUN: kaoken-opt %s -p "choose-schedule{target=generic},lower-to-loops" | filecheck %s

// In a long group codes are multiplied where they stand in their bytes, as long as these stay below
// 128, and sums are shifted down once; codes in the highest bits are shifted first.
// CHECK-LABEL: func.func private @linear_512x4_q2
// CHECK:       %[[a:.*]], %[[b:.*]], %[[c:.*]], %[[d:.*]] = affine.for %k = 0 to 32
// CHECK-NOT:     arith.shrui
// CHECK:         arith.constant 50529027 : i32
// CHECK-NEXT:    %[[first:.*]] = arith.andi
// CHECK:         kaoken_loop.dot ui7_i8 %[[first]]
// CHECK:         arith.constant 202116108 : i32
// CHECK:         arith.constant 808464432 : i32
// CHECK:         arith.constant 6 : i32
// CHECK:         arith.shrui
// CHECK:         kaoken_loop.dot
// CHECK:       %[[two:.*]] = arith.constant 2 : i32
// CHECK-NEXT:  arith.shrsi %[[b]], %[[two]]
// CHECK:       %[[four:.*]] = arith.constant 4 : i32
// CHECK-NEXT:  arith.shrsi %[[c]], %[[four]]
func.func @main(%x: tensor<1x1x130xi32>) -> tensor<1x4xf32> {
  %w = kaoken.weight "w" : tensor<1x32x4x4xi8>
  %ws = kaoken.weight "ws" : tensor<1x1x4xf16>
  %y = kaoken.linear %x, %w weight_scale %ws : tensor<1x1x4xf16> {out_features = 4, format = #kaoken.format<2 bits, offset 1>} : tensor<1x1x130xi32>, tensor<1x32x4x4xi8> -> tensor<1x4xf32>
  return %y : tensor<1x4xf32>
}

// RUN: kaoken-opt %s -p calibrate | filecheck %s
// RUN: kaoken-opt %s -p calibrate,calibrate | filecheck %s
// RUN: kaoken-opt %s -p calibrate,quantize | filecheck %s --check-prefix=USED
// RUN: not kaoken-opt %s -p 'calibrate{inputs="none.npz"}' 2>&1 | filecheck %s --check-prefix=MISSING

// MISSING: none.npz is no .npz file of sample inputs

// Random token ids run through the model. Both layers of %e share what was seen of it; what comes
// out of the ReLU is never negative, which another zero point suits better.
// CHECK-LABEL: func.func @main
// CHECK:      %[[r:.*]] = kaoken.weight "w.input" : tensor<2x4xf32>
// CHECK-NEXT: %[[e:.*]] = kaoken.observe %e, %[[r]] : tensor<1x?x4xf32>, tensor<2x4xf32> -> tensor<1x?x4xf32>
// CHECK-NEXT: kaoken.linear %[[e]], %w {activation
// CHECK-NEXT: kaoken.linear %[[e]], %v
// CHECK-NEXT: kaoken.weight "u.input" : tensor<2x8xf32>
// CHECK-NEXT: %[[h:.*]] = kaoken.observe %h, %{{.*}} {zero_point = 32 : i64}
// CHECK-NEXT: kaoken.linear %[[h]], %u
// CHECK-NOT:  kaoken.observe
// USED-NOT: kaoken.observe
// USED:     kaoken.quantize %h scale %{{.*}} : tensor<1x?xf32> {zero_point = 32 : i64}
// USED:     input_zero_point = 32
func.func @main(%ids: tensor<1x?xi64> {kaoken.shape = #kaoken.shape<[1, tokens]>}) -> (tensor<1x?x4xf32>, tensor<1x?x8xf32>) attributes {kaoken.max = {tokens = 16}} {
  %table = arith.constant dense<[[1.0, -2.0, 3.0, 4.0], [5.0, 6.0, -7.0, 8.0]]> : tensor<2x4xf32>
  %w = arith.constant dense<1.0> : tensor<8x4xf32>
  %v = arith.constant dense<2.0> : tensor<8x4xf32>
  %u = arith.constant dense<0.5> : tensor<4x8xf32>
  %e = kaoken.embedding %table, %ids : tensor<2x4xf32>, tensor<1x?xi64> -> tensor<1x?x4xf32>
  %h = kaoken.linear %e, %w {activation = #kaoken<activation relu>} : tensor<1x?x4xf32>, tensor<8x4xf32> -> tensor<1x?x8xf32>
  %g = kaoken.linear %e, %v : tensor<1x?x4xf32>, tensor<8x4xf32> -> tensor<1x?x8xf32>
  %y = kaoken.linear %h, %u : tensor<1x?x8xf32>, tensor<4x8xf32> -> tensor<1x?x4xf32>
  return %y, %g : tensor<1x?x4xf32>, tensor<1x?x8xf32>
}

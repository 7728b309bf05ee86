// RUN: kaoken-opt %s -p outline | filecheck %s
// RUN: kaoken-opt %s -p outline,outline | filecheck %s

// Two feed-forward layers with a norm before and the residual after, between other ops. The
// number is copied into the layer, the mask is handed to each call.
func.func @main(%x: tensor<?x4xf32> {kaoken.shape = #kaoken.shape<[tokens, 4]>}, %m: tensor<?x1xf32> {kaoken.shape = #kaoken.shape<[tokens, 1]>}) -> tensor<?x4xf32> attributes {kaoken.max = {tokens = 8}} {
  %half = kaoken.full 0.5 : f32 to <[]> : tensor<f32>
  %s = kaoken.tanh %x : tensor<?x4xf32> -> tensor<?x4xf32>

  %n0 = kaoken.weight "bert.encoder.layer.0.norm.weight" : tensor<4xf32>
  %a0 = kaoken.rms_norm %s, %n0 {eps = 1.0e-5 : f64} : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xf32>
  %u0 = kaoken.weight "bert.encoder.layer.0.up.weight" : tensor<4x4xf32>
  %b0 = kaoken.linear %a0, %u0 residual %s : tensor<?x4xf32> : tensor<?x4xf32>, tensor<4x4xf32> -> tensor<?x4xf32>
  %c0 = kaoken.elementwise mul %b0, %half : tensor<?x4xf32>, tensor<f32> -> tensor<?x4xf32>
  %d0 = kaoken.elementwise mul %c0, %m : tensor<?x4xf32>, tensor<?x1xf32> -> tensor<?x4xf32>

  %n1 = kaoken.weight "bert.encoder.layer.1.norm.weight" : tensor<4xf32>
  %a1 = kaoken.rms_norm %d0, %n1 {eps = 1.0e-5 : f64} : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xf32>
  %u1 = kaoken.weight "bert.encoder.layer.1.up.weight" : tensor<4x4xf32>
  %b1 = kaoken.linear %a1, %u1 residual %d0 : tensor<?x4xf32> : tensor<?x4xf32>, tensor<4x4xf32> -> tensor<?x4xf32>
  %c1 = kaoken.elementwise mul %b1, %half : tensor<?x4xf32>, tensor<f32> -> tensor<?x4xf32>
  %d1 = kaoken.elementwise mul %c1, %m : tensor<?x4xf32>, tensor<?x1xf32> -> tensor<?x4xf32>

  %y = kaoken.relu %d1 : tensor<?x4xf32> -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// CHECK:      func.func private @encoder_layer(%s: tensor<?x4xf32> {kaoken.shape = #kaoken.shape<[tokens, 4]>}, %norm_weight: tensor<4xf32> {kaoken.shape = #kaoken.shape<[4]>}, %up_weight: tensor<4x4xf32> {kaoken.shape = #kaoken.shape<[4, 4]>}, %m: tensor<?x1xf32> {kaoken.shape = #kaoken.shape<[tokens, 1]>}) -> tensor<?x4xf32> attributes {kaoken.result_shapes = [#kaoken.shape<[tokens, 4]>], kaoken.max = {tokens = 8 : i64}} {
// CHECK-NEXT:   [[H:%.*]] = kaoken.full 5.000000e-01 : f32 to <[]> : tensor<f32>
// CHECK-NEXT:   [[A:%.*]] = kaoken.rms_norm %s, %norm_weight
// CHECK-NEXT:   [[B:%.*]] = kaoken.linear [[A]], %up_weight residual %s
// CHECK-NEXT:   [[C:%.*]] = kaoken.elementwise mul [[B]], [[H]]
// CHECK-NEXT:   [[D:%.*]] = kaoken.elementwise mul [[C]], %m
// CHECK-NEXT:   return [[D]]

// CHECK:      func.func @main
// CHECK-NEXT:   %n0 = kaoken.weight "bert.encoder.layer.0.norm.weight"
// CHECK-NEXT:   %u0 = kaoken.weight "bert.encoder.layer.0.up.weight"
// CHECK-NEXT:   %n1 = kaoken.weight "bert.encoder.layer.1.norm.weight"
// CHECK-NEXT:   %u1 = kaoken.weight "bert.encoder.layer.1.up.weight"
// CHECK-NEXT:   %s = kaoken.tanh %x
// CHECK-NEXT:   %d0 = func.call @encoder_layer(%s, %n0, %u0, %m)
// CHECK-NEXT:   %d1 = func.call @encoder_layer(%d0, %n1, %u1, %m)
// CHECK-NEXT:   %y = kaoken.relu %d1
// CHECK-NEXT:   return %y

// RUN: kaoken-opt %s -p 'quantize{dtype=auto},dce' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=auto},quantize{dtype=auto},dce' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=int8},dce' | filecheck %s --check-prefix=INT8
// RUN: kaoken-opt %s -p 'quantize{dtype=f32},dce' | filecheck %s --check-prefix=F32

// Inputs that the model rounds itself keep its rule. A norm without gain goes into the scales of an
// exact rounding; one with gain stays, and so does one before another rule.
// CHECK-LABEL: func.func @main
// CHECK:      %[[n:.*]] = kaoken.rms_norm %x, %one
// CHECK-NEXT: %[[g:.*]] = kaoken.rms_norm %x, %gain
// CHECK-NEXT: %[[a:.*]] = kaoken.quantize_blocks %x {block = 48 : i64, rounding = #kaoken<rounding exact>, eps = 0.000000e+00 : f64} : tensor<?x40xf32> -> tensor<?x1x14xi32>
// CHECK-NEXT: kaoken.linear %[[a]], %c weight_scale %s : tensor<8x1xf32> {format = #kaoken.format<2 bits, offset 1>}
// CHECK-NEXT: kaoken.linear %[[a]], %c weight_scale %s
// CHECK-NEXT: %[[b:.*]] = kaoken.quantize_blocks %[[n]] {block = 48 : i64, rounding = #kaoken<rounding bitnet>}
// CHECK-NEXT: kaoken.linear %[[b]], %c weight_scale %s
// CHECK-NEXT: %[[d:.*]] = kaoken.quantize_blocks %[[g]] {block = 48 : i64, rounding = #kaoken<rounding exact>}
// CHECK-NEXT: kaoken.linear %[[d]], %c weight_scale %s
// CHECK-NEXT: kaoken.linear %x, %u : tensor<?x40xf32>, tensor<8x40xf32> -> tensor<?x8xf32>

// With int8 they are codes as well, and layers of floats become int8.
// INT8-NOT:     fake_quantize
// INT8-COUNT-4: format = #kaoken.format<2 bits, offset 1>
// INT8:         kaoken.linear {{.*}} tensor<?x40xui8>, tensor<8x40xi8> -> tensor<?x8xf32>

// F32-COUNT-3: kaoken.fake_quantize
// F32-COUNT-5: kaoken.linear {{.*}} tensor<?x40xf32>, tensor<8x40xf32> -> tensor<?x8xf32>
func.func @main(%x: tensor<?x40xf32> {kaoken.shape = #kaoken.shape<[rows, 40]>})
    -> (tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>)
    attributes {kaoken.max = {rows = 64}} {
  %c = kaoken.weight "c" : tensor<8x40xui8>
  %s = kaoken.weight "s" : tensor<8x1xf32>
  %u = kaoken.weight "u" : tensor<8x40xf32>
  %gain = kaoken.weight "gain" : tensor<40xf32>
  %one = kaoken.full 1.0 : f32 to <[40]> : tensor<40xf32>
  %w = kaoken.dequantize %c scale %s : tensor<8x1xf32> {format = #kaoken.format<2 bits, offset 1>} : tensor<8x40xui8> -> tensor<8x40xf32>
  %n = kaoken.rms_norm %x, %one {eps = 0.0} : tensor<?x40xf32>, tensor<40xf32> -> tensor<?x40xf32>
  %g = kaoken.rms_norm %x, %gain {eps = 0.0} : tensor<?x40xf32>, tensor<40xf32> -> tensor<?x40xf32>
  %a = kaoken.fake_quantize %n {rounding = #kaoken<rounding exact>} : tensor<?x40xf32> -> tensor<?x40xf32>
  %b = kaoken.fake_quantize %n {rounding = #kaoken<rounding bitnet>} : tensor<?x40xf32> -> tensor<?x40xf32>
  %d = kaoken.fake_quantize %g {rounding = #kaoken<rounding exact>} : tensor<?x40xf32> -> tensor<?x40xf32>
  %0 = kaoken.linear %a, %w : tensor<?x40xf32>, tensor<8x40xf32> -> tensor<?x8xf32>
  %1 = kaoken.linear %a, %w : tensor<?x40xf32>, tensor<8x40xf32> -> tensor<?x8xf32>
  %2 = kaoken.linear %b, %w : tensor<?x40xf32>, tensor<8x40xf32> -> tensor<?x8xf32>
  %3 = kaoken.linear %d, %w : tensor<?x40xf32>, tensor<8x40xf32> -> tensor<?x8xf32>
  %4 = kaoken.linear %x, %u : tensor<?x40xf32>, tensor<8x40xf32> -> tensor<?x8xf32>
  return %0, %1, %2, %3, %4 : tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
}

// RUN: kaoken-opt %s --verify-diagnostics --split-input-file | filecheck %s

// Super-blocks of two groups: what scales and minima are worth, in turn.
func.func @main(%b: tensor<3x3x10xi32>, %c: tensor<5x70xui8>, %s: tensor<5x3xui8>, %t: tensor<5x4xf16>) {
  %w = kaoken.dequantize %c scale %s : tensor<5x3xui8> min %s : tensor<5x3xui8> supers %t : tensor<5x4xf16> {format = #kaoken.format<5 bits, group 32, super 2>} : tensor<5x70xui8> -> tensor<5x70xf32>
  %y = kaoken.linear %b, %c weight_scale %s : tensor<5x3xui8> weight_min %s : tensor<5x3xui8> weight_supers %t : tensor<5x4xf16> {format = #kaoken.format<5 bits, group 32, super 2>} : tensor<3x3x10xi32>, tensor<5x70xui8> -> tensor<3x5xf32>
  func.return
}
// CHECK:      kaoken.dequantize %c scale %s : tensor<5x3xui8> min %s : tensor<5x3xui8> supers %t : tensor<5x4xf16> {format = #kaoken.format<5 bits, group 32, super 2>} : tensor<5x70xui8> -> tensor<5x70xf32>
// CHECK-NEXT: kaoken.linear %b, %c weight_scale %s : tensor<5x3xui8> weight_min %s : tensor<5x3xui8> weight_supers %t : tensor<5x4xf16> {format = #kaoken.format<5 bits, group 32, super 2>} : tensor<3x3x10xi32>, tensor<5x70xui8> -> tensor<3x5xf32>

// -----

func.func @main(%c: tensor<5x70xui8>, %s: tensor<5x3xui8>, %t: tensor<5x3xf16>) {
  %w = kaoken.dequantize %c scale %s : tensor<5x3xui8> supers %t : tensor<5x3xf16> {format = #kaoken.format<5 bits, group 32, super 2>} : tensor<5x70xui8> -> tensor<5x70xf32>
  func.return
}
// CHECK: supers: 3 is not 2

// -----

func.func @main(%c: tensor<5x70xui8>, %s: tensor<5x3xui8>) {
  %w = kaoken.dequantize %c scale %s : tensor<5x3xui8> {format = #kaoken.format<5 bits, group 32, super 2>} : tensor<5x70xui8> -> tensor<5x70xf32>
  func.return
}
// CHECK: supers belong to a format with super-blocks

// -----

func.func @main(%x: tensor<3x70xf32>, %c: tensor<5x70xui8>, %s: tensor<5x3xf16>) {
  %w = kaoken.dequantize %c scale %s : tensor<5x3xf16> min %s : tensor<5x3xf16> {format = #kaoken.format<2 bits, group 32>} : tensor<5x70xui8> -> tensor<5x70xf32>
  %b = kaoken.quantize_blocks %x {block = 32} : tensor<3x70xf32> -> tensor<3x3x10xi32>
  %y = kaoken.linear %b, %c weight_scale %s : tensor<5x3xf16> weight_min %s : tensor<5x3xf16> {format = #kaoken.format<1 bits, group 32, offset 1, step 2>} : tensor<3x3x10xi32>, tensor<5x70xui8> -> tensor<3x5xf32>
  func.return
}
// CHECK:      kaoken.dequantize %c scale %s : tensor<5x3xf16> min %s : tensor<5x3xf16> {format = #kaoken.format<2 bits, group 32>} : tensor<5x70xui8> -> tensor<5x70xf32>
// CHECK-NEXT: kaoken.quantize_blocks %x {block = 32 : i64} : tensor<3x70xf32> -> tensor<3x3x10xi32>
// CHECK-NEXT: kaoken.linear %b, %c weight_scale %s : tensor<5x3xf16> weight_min %s : tensor<5x3xf16> {format = #kaoken.format<1 bits, group 32, offset 1, step 2>} : tensor<3x3x10xi32>, tensor<5x70xui8> -> tensor<3x5xf32>

// -----

func.func @main(%c: tensor<5x70xui8>, %s: tensor<5x2xf16>) {
  %w = kaoken.dequantize %c scale %s : tensor<5x2xf16> {format = #kaoken.format<4 bits, group 32, offset 8>} : tensor<5x70xui8> -> tensor<5x70xf32>
  func.return
}
// CHECK: groups: 2 is not 3

// -----

func.func @main(%c: tensor<5x70xui8>, %s: tensor<5x2xf16>) {
  %w = kaoken.dequantize %c scale %s : tensor<5x2xf16> {format = #kaoken.format<7 bits, group 32>} : tensor<5x70xui8> -> tensor<5x70xf32>
  func.return
}
// CHECK: codes have 1, 2, 3, 4, 5, 6, 8 bits, not 7

// -----

func.func @main(%c: tensor<5x70xui8>, %s: tensor<5x2xf16>) {
  %w = kaoken.dequantize %c scale %s : tensor<5x2xf16> {format = #kaoken.format<4 bits, group 12>} : tensor<5x70xui8> -> tensor<5x70xf32>
  func.return
}
// CHECK: a group of 12 codes of 4 bits does not fill 32-bit words

// -----

func.func @main(%x: tensor<3x70xf32>) {
  %b = kaoken.quantize_blocks %x {block = 6} : tensor<3x70xf32> -> tensor<3x12x3xi32>
  func.return
}
// CHECK: a block has a multiple of 4 numbers

// -----

func.func @main(%b: tensor<3x2x10xi32>, %c: tensor<5x70xui8>, %s: tensor<5x2xf16>) {
  %y = kaoken.linear %b, %c weight_scale %s : tensor<5x2xf16> {format = #kaoken.format<4 bits, group 32, offset 8>} : tensor<3x2x10xi32>, tensor<5x70xui8> -> tensor<3x5xf32>
  func.return
}
// CHECK: 2 blocks of 32 are no 70 inputs

// -----

// The rule of rounding shows where it is not `step`.
func.func @main(%x: tensor<3x70xf32>) {
  %f = kaoken.fake_quantize %x {rounding = #kaoken<rounding bitnet>} : tensor<3x70xf32> -> tensor<3x70xf32>
  %g = kaoken.fake_quantize %x : tensor<3x70xf32> -> tensor<3x70xf32>
  %b = kaoken.quantize_blocks %x {block = 80, rounding = #kaoken<rounding exact>, eps = 0.0} : tensor<3x70xf32> -> tensor<3x1x22xi32>
  func.return
}
// CHECK:      kaoken.fake_quantize %x {rounding = #kaoken<rounding bitnet>} : tensor<3x70xf32> -> tensor<3x70xf32>
// CHECK-NEXT: kaoken.fake_quantize %x : tensor<3x70xf32> -> tensor<3x70xf32>
// CHECK-NEXT: kaoken.quantize_blocks %x {block = 80 : i64, rounding = #kaoken<rounding exact>, eps = 0.000000e+00 : f64} : tensor<3x70xf32> -> tensor<3x1x22xi32>

// -----

func.func @main(%x: tensor<f32>) {
  %f = kaoken.fake_quantize %x : tensor<f32> -> tensor<f32>
  func.return
}
// CHECK: input is [..., K] with K known
